/* Topics and contracts for Python: thin over topic.c and contract*.c. */
#include "message.h"

enum { WHY_BYTES = 1024 };

static int utf8_of(PyObject *text, const char *code, struct sira_slice *out)
{
    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "want str, got %s", Py_TYPE(text)->tp_name);
        return -1;
    }
    Py_ssize_t len;
    const char *data = PyUnicode_AsUTF8AndSize(text, &len);
    if (!data) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeError)) sira_raise(code, "not Unicode text");
        return -1;
    }
    *out = (struct sira_slice){(const uint8_t *)data, (size_t)len};
    return 0;
}

static int pattern_of_py(PyObject *pattern, struct sira_slice *out)
{
    if (utf8_of(pattern, "BAD_TOPIC", out) < 0) return -1;
    const enum sira_status status = sira_pattern_check(out->data, out->len);
    if (status == SIRA_OK) return 0;
    sira_raise(sira_status_code(status), "pattern %.200R: %s", pattern, sira_status_text(status));
    return -1;
}

static PyObject *check_topic(PyObject *Py_UNUSED(module), PyObject *name)
{
    struct sira_slice slice;
    if (sira_topic_of_py(name, &slice) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *check_pattern(PyObject *Py_UNUSED(module), PyObject *pattern)
{
    struct sira_slice slice;
    if (pattern_of_py(pattern, &slice) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *topic_match(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    struct sira_slice pattern, name;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "topic_match takes a pattern and a name");
    if (pattern_of_py(args[0], &pattern) < 0 || sira_topic_of_py(args[1], &name) < 0) return NULL;
    return PyBool_FromLong(sira_topic_match(pattern.data, pattern.len, name.data, name.len));
}

/* ---- Contract -------------------------------------------------------------------------------------------- */
struct contract_object {
    PyObject_HEAD
    struct sira_contract *contract; /* owned, PyMem: 17 KB and more */
};

const struct sira_contract *sira_contract_of(PyObject *contract)
{
    assert(PyObject_TypeCheck(contract, &sira_contract_type));
    return ((struct contract_object *)contract)->contract;
}

static PyObject *contract_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"texts", NULL};
    PyObject *texts; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Contract", names, &texts)) return NULL;
    PyObject *items = PyMapping_Items(texts); /* owned: a list of pairs */
    if (!items) return NULL;
    struct contract_object *self = (struct contract_object *)type->tp_alloc(type, 0);
    if (self && !(self->contract = PyMem_Calloc(1, sizeof *self->contract))) {
        PyErr_NoMemory();
        Py_CLEAR(self);
    }
    for (Py_ssize_t i = 0; self && i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = PyList_GET_ITEM(items, i); /* borrowed */
        struct sira_slice name, text;
        const char *error = "not a pair of a name and a text";
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, error);
            Py_CLEAR(self);
        } else if (utf8_of(PyTuple_GET_ITEM(pair, 0), "BAD_REQUEST", &name) < 0
                   || utf8_of(PyTuple_GET_ITEM(pair, 1), "BAD_REQUEST", &text) < 0) {
            Py_CLEAR(self);
        } else if (!sira_contract_add(self->contract, (const char *)name.data, name.len, (const char *)text.data,
                                      text.len, &error)) {
            sira_raise("BAD_REQUEST", "contract of %.200R, %.200R: %s", PyTuple_GET_ITEM(pair, 0),
                       PyTuple_GET_ITEM(pair, 1), error);
            Py_CLEAR(self);
        }
    }
    Py_DECREF(items);
    return (PyObject *)self;
}

static void contract_dealloc(PyObject *self)
{
    PyMem_Free(((struct contract_object *)self)->contract);
    Py_TYPE(self)->tp_free(self);
}

/* A text of C, cut at a whole character. */
static PyObject *why_text(const char *why)
{
    return PyUnicode_DecodeUTF8(why, (Py_ssize_t)strlen(why), "replace");
}

static PyObject *contract_check(PyObject *self, PyObject *message)
{
    if (!sira_message_check(message))
        return PyErr_Format(PyExc_TypeError, "check: want Message, got %s", Py_TYPE(message)->tp_name);
    struct sira_env env;
    if (sira_message_parse((const struct message *)message, &env) < 0) return NULL;
    char why[WHY_BYTES];
    if (sira_contract_check(sira_contract_of(self), &env, why, sizeof why)) Py_RETURN_NONE;
    return why_text(why);
}

static PyObject *contract_unify(PyObject *self, PyObject *other)
{
    if (!PyObject_TypeCheck(other, &sira_contract_type))
        return PyErr_Format(PyExc_TypeError, "unify: want Contract, got %s", Py_TYPE(other)->tp_name);
    char why[WHY_BYTES];
    if (sira_contract_unify(sira_contract_of(self), sira_contract_of(other), why, sizeof why)) Py_RETURN_NONE;
    return why_text(why);
}

static PyMethodDef contract_methods[] = {
    {"check", contract_check, METH_O, "check(message) -> why it does not fit, in one line; None: it fits."},
    {"unify", contract_unify, METH_O, "unify(other) -> a diff of two lines; None: some message fits both."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject sira_contract_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Contract",
    .tp_doc = "Contract(texts): tensor name -> \"dtype|dtype[dim, ...]\", compiled. BAD_REQUEST when one does not parse.",
    .tp_basicsize = sizeof(struct contract_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = contract_new,
    .tp_dealloc = contract_dealloc,
    .tp_methods = contract_methods,
};

static PyMethodDef topic_functions[] = {
    {"check_topic", check_topic, METH_O, "check_topic(name): BAD_TOPIC unless it is the name of a topic."},
    {"check_pattern", check_pattern, METH_O, "check_pattern(pattern): BAD_TOPIC unless it is a pattern."},
    {"topic_match", (PyCFunction)(void (*)(void))topic_match, METH_FASTCALL,
     "topic_match(pattern, name) -> bool. BAD_TOPIC when either is malformed."},
    {NULL, NULL, 0, NULL},
};

int sira_add_topic(PyObject *module)
{
    if (sira_add_type(module, &sira_contract_type) < 0) return -1;
    return sira_add_functions(module, topic_functions);
}
