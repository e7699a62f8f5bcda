/* sira._native: the C core, as Python sees it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The version the extension was built for; the package compares it with its own. */
static PyObject *native_version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyUnicode_FromString(SIRA_VERSION); /* owned by the caller */
}

static PyMethodDef native_methods[] = {
    {"version", native_version, METH_NOARGS, "version() -> str: what this extension was built for."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sira._native",
    .m_doc = "The C core: no policy, no sockets.",
    .m_size = 0,
    .m_methods = native_methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
