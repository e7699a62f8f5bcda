/* The fault points of a build with SIRA_FAULTS, for tests that walk them (tests/fault/walk): their names, how often
 * this process has passed each, and what happens at one of them. A release has neither points nor this file. */
#include "fault.h"
#include "pyutil.h"

#include <signal.h>
#include <unistd.h>

#if !defined(SIRA_FAULTS)
#error "only in a build with SIRA_FAULTS"
#endif

/* Made by the linker: first and end of the list of all points, in any order, some names more than once. */
extern const char *const __start_sira_faults[] __attribute__((visibility("hidden")));
extern const char *const __stop_sira_faults[] __attribute__((visibility("hidden")));

enum { NAMES_MAX = 256, NAME_BYTES_MAX = 64 };
static const char *names[NAMES_MAX]; /* each once */
static uint64_t passes[NAMES_MAX];
static uint32_t name_count;
static char armed[NAME_BYTES_MAX]; /* "": nowhere */
static int64_t left;               /* passes until it happens; may go on below 0 */
static int armed_signal;

static void pass(const char *name)
{
    for (uint32_t i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0) {
            __atomic_fetch_add(&passes[i], 1, __ATOMIC_RELAXED);
            break;
        }
    if (!armed[0] || strcmp(armed, name) != 0 || __atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) != 0) return;
    (void)kill(getpid(), armed_signal); /* SIGKILL, SIGSTOP: before this returns; others: when Python looks */
}

/* fault_passes() -> {name: passes} */
static PyObject *fault_passes(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    PyObject *found = PyDict_New(); /* owned */
    for (uint32_t i = 0; found && i < name_count; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(__atomic_load_n(&passes[i], __ATOMIC_RELAXED)); /* owned */
        if (!count || PyDict_SetItemString(found, names[i], count) < 0) Py_CLEAR(found);
        Py_XDECREF(count);
    }
    return found;
}

/* fault_arm(name, count, signal) */
static PyObject *fault_arm(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    long long count;
    int number;
    if (!PyArg_ParseTuple(args, "sLi:fault_arm", &name, &count, &number)) return NULL;
    if (strlen(name) >= NAME_BYTES_MAX) return PyErr_Format(PyExc_ValueError, "%s is too long", name);
    armed[0] = '\0';
    __atomic_store_n(&left, count, __ATOMIC_SEQ_CST);
    armed_signal = number;
    memcpy(armed, name, strlen(name) + 1);
    Py_RETURN_NONE;
}

/* fault_point(name): one that Python has, as of a record that was sent. */
static PyObject *fault_point(PyObject *Py_UNUSED(module), PyObject *name)
{
    const char *text = PyUnicode_AsUTF8(name);
    if (!text) return NULL;
    pass(text);
    Py_RETURN_NONE;
}

static PyMethodDef fault_functions[] = {
    {"fault_passes", fault_passes, METH_NOARGS, "fault_passes() -> {name: passes} of all points."},
    {"fault_arm", fault_arm, METH_VARARGS, "fault_arm(name, count, signal): sent to this process at that pass."},
    {"fault_point", fault_point, METH_O, "fault_point(name): pass a point that is not in C."},
    {NULL, NULL, 0, NULL},
};

int sira_add_faults(PyObject *module)
{
    name_count = 0;
    for (const char *const *each = __start_sira_faults; each < __stop_sira_faults; each++) {
        uint32_t i = 0;
        while (i < name_count && strcmp(names[i], *each) != 0) i++;
        if (i < name_count) continue;
        if (name_count == NAMES_MAX || strlen(*each) >= NAME_BYTES_MAX) {
            PyErr_SetString(PyExc_ImportError, "more fault points, or longer names, than there is room for");
            return -1;
        }
        names[name_count++] = *each;
    }
    sira_fault_hook = pass;
    return sira_add_functions(module, fault_functions);
}
