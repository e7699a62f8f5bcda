/* Stepper: a coroutine that runs from the event loop's callbacks, and that its waker can run at once.
 *
 * The two halves of a stream wait far more often than they work. A task is woken by a turn of the loop of its own,
 * which costs a small message more than what is then done; a stepper goes on in the middle of whatever woke it.
 *
 * Protocol of asyncio (Lib/asyncio/tasks.py, Task.__step): an awaited future comes out with _asyncio_future_blocking
 * true, is told to forget that, and calls back when it is done; its outcome is raised or returned inside the
 * coroutine by itself. None comes out of sleep(0). `await stepper` comes out as the stepper: it rests. */
#include "pyutil.h"

#include <stddef.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *loop, *context, *name, *ended; /* owned */
    PyObject *coroutine;                     /* owned; NULL: not begun, or over */
    PyObject *waits_for;                     /* owned; the future it waits for, or NULL */
    bool resting, running, woken, must_cancel, asked;
} Stepper;

static struct {
    PyObject *blocking, *add_done_callback, *call_soon, *cancel, *context_only; /* owned, for ever */
    PyObject *cancelled_error;
} names;

/* A coroutine that is over; `ended` tells whoever waits for that. 0, or -1 with an exception. */
static int end(Stepper *self)
{
    Py_CLEAR(self->coroutine);
    self->resting = false;
    PyObject *done = PyObject_CallMethod(self->ended, "done", NULL); /* owned */
    const int is_done = done ? PyObject_IsTrue(done) : -1;
    Py_XDECREF(done);
    if (is_done) return is_done < 0 ? -1 : 0;
    PyObject *set = PyObject_CallMethod(self->ended, "set_result", "O", Py_None); /* owned */
    Py_XDECREF(set);
    return set ? 0 : -1;
}

/* End with the exception that is set: CancelledError is an end as any, others go to the loop's handler, and what is
 * no Exception (KeyboardInterrupt) goes on. 0, or -1 with an exception. */
static int fail(Stepper *self)
{
    if (PyErr_ExceptionMatches(names.cancelled_error)) {
        PyErr_Clear();
        return end(self);
    }
    const bool told = PyErr_ExceptionMatches(PyExc_Exception);
    PyObject *type, *value, *trace; /* owned */
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace) PyException_SetTraceback(value, trace);
    if (end(self) < 0) PyErr_WriteUnraisable((PyObject *)self);
    if (!told) {
        PyErr_Restore(type, value, trace);
        return -1;
    }
    PyObject *message = PyUnicode_FromFormat("%U failed", self->name); /* owned */
    PyObject *called = message ? PyObject_CallMethod(self->loop, "call_exception_handler", "{s:O,s:O}", "message",
                                                     message, "exception", value)
                               : NULL; /* owned */
    Py_XDECREF(message);
    Py_XDECREF(called);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return called ? 0 : -1;
}

/* Run in the next turn of the loop; `step_it`: a step in any case, else only if it rests then. */
static int soon(Stepper *self, bool step_it)
{
    PyObject *args[4] = {self->loop, (PyObject *)self, Py_None, self->context}; /* borrowed */
    if (!step_it) args[2] = self->context;
    PyObject *handle = PyObject_VectorcallMethod(names.call_soon, args, step_it ? 3 : 2, names.context_only); /* owned */
    Py_XDECREF(handle);
    return handle ? 0 : -1;
}

static int wake(Stepper *self)
{
    if (!self->resting || self->woken) return 0;
    self->woken = true;
    return soon(self, false);
}

/* Cancel the future it waits for, if that is still possible; the future then calls back. */
static int cancel_wait(Stepper *self)
{
    PyObject *cancelled = PyObject_CallMethodNoArgs(self->waits_for, names.cancel); /* owned */
    const int is_cancelled = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (is_cancelled < 0) return -1;
    if (is_cancelled) self->must_cancel = false;
    return 0;
}

/* See to it that it goes on when `yielded` (borrowed) is done. */
static int wait_for(Stepper *self, PyObject *yielded)
{
    if (yielded == (PyObject *)self) {
        self->resting = true;
        return self->must_cancel ? wake(self) : 0;
    }
    if (yielded == Py_None) return soon(self, true);
    PyObject *blocking = PyObject_GetAttr(yielded, names.blocking); /* owned */
    const int is_future = blocking ? PyObject_IsTrue(blocking) : -1;
    Py_XDECREF(blocking);
    if (is_future < 0) return -1;
    if (!is_future) {
        PyErr_Format(PyExc_RuntimeError, "%U: %R was yielded without `await`", self->name, yielded);
        return -1;
    }
    if (PyObject_SetAttr(yielded, names.blocking, Py_False) < 0) return -1;
    PyObject *args[3] = {yielded, (PyObject *)self, self->context}; /* borrowed */
    PyObject *added = PyObject_VectorcallMethod(names.add_done_callback, args, 2, names.context_only); /* owned */
    Py_XDECREF(added);
    if (!added) return -1;
    Py_XSETREF(self->waits_for, Py_NewRef(yielded));
    return self->must_cancel ? cancel_wait(self) : 0;
}

/* Raise CancelledError where it waits. As PyIter_Send. */
static PySendResult throw_cancelled(Stepper *self, PyObject *coroutine, PyObject **yielded)
{
    self->must_cancel = false;
    self->asked = false; /* the rest, if it was in one, is over */
    *yielded = PyObject_CallMethod(coroutine, "throw", "O", names.cancelled_error); /* owned */
    if (*yielded) return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) return PYGEN_ERROR;
    PyErr_Clear();
    *yielded = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* Run until it waits or ends. None, or NULL with an exception that is nobody's business but the loop's. */
static PyObject *step(Stepper *self)
{
    if (!self->coroutine || self->running) Py_RETURN_NONE;
    Py_CLEAR(self->waits_for);
    self->resting = false;
    self->running = true;
    Py_INCREF(self);                                  /* what it runs may drop us */
    PyObject *coroutine = Py_NewRef(self->coroutine); /* owned */
    PyObject *yielded = NULL;                         /* owned */
    const PySendResult sent = self->must_cancel ? throw_cancelled(self, coroutine, &yielded)
                                                : PyIter_Send(coroutine, Py_None, &yielded);
    self->running = false;
    int result;
    if (sent == PYGEN_NEXT) {
        result = wait_for(self, yielded);
        if (result < 0) result = fail(self);
    } else {
        result = sent == PYGEN_RETURN ? end(self) : fail(self);
    }
    Py_XDECREF(yielded);
    Py_DECREF(coroutine);
    Py_DECREF(self);
    if (result < 0) return NULL;
    Py_RETURN_NONE;
}

/* The callback: stepper() after `wake`, stepper(future) when what it waited for is done. */
static PyObject *stepper_vectorcall(PyObject *object, PyObject *const *Py_UNUSED(args), size_t nargsf,
                                    PyObject *Py_UNUSED(kwnames))
{
    Stepper *self = (Stepper *)object;
    if (PyVectorcall_NARGS(nargsf)) return step(self);
    self->woken = false;
    if (self->resting) return step(self);
    Py_RETURN_NONE;
}

/* ---- methods ------------------------------------------------------------------------------------------------ */
static PyObject *stepper_begin(Stepper *self, PyObject *coroutine)
{
    if (self->coroutine || !self->resting) {
        PyErr_SetString(PyExc_RuntimeError, "a stepper begins once");
        return NULL;
    }
    self->coroutine = Py_NewRef(coroutine);
    if (wake(self) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *stepper_wake(Stepper *self, PyObject *Py_UNUSED(ignored))
{
    if (wake(self) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *stepper_go(Stepper *self, PyObject *Py_UNUSED(ignored))
{
    if (self->resting) return step(self);
    Py_RETURN_NONE;
}

static PyObject *stepper_cancel(Stepper *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->coroutine) Py_RETURN_NONE;
    self->must_cancel = true;
    if (self->running) Py_RETURN_NONE; /* noticed where it waits next */
    if ((self->waits_for ? cancel_wait(self) : wake(self)) < 0) return NULL;
    Py_RETURN_NONE;
}

/* `await stepper`, inside its own coroutine: comes out once, then goes on. */
static PySendResult stepper_send(Stepper *self, PyObject *Py_UNUSED(sent), PyObject **result)
{
    self->asked = !self->asked;
    *result = self->asked ? Py_NewRef((PyObject *)self) : Py_NewRef(Py_None);
    return self->asked ? PYGEN_NEXT : PYGEN_RETURN;
}

static PyObject *stepper_next(Stepper *self)
{
    PyObject *value; /* owned */
    if (stepper_send(self, Py_None, &value) == PYGEN_NEXT) return value;
    Py_DECREF(value);
    return NULL; /* StopIteration */
}

static PyObject *stepper_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", "loop", NULL};
    PyObject *name, *loop; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UO:Stepper", keywords, &name, &loop)) return NULL;
    Stepper *self = (Stepper *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->vectorcall = stepper_vectorcall;
    self->name = Py_NewRef(name);
    self->loop = Py_NewRef(loop);
    self->resting = true;
    self->context = PyContext_CopyCurrent(); /* whose turn it was when it went on is none of its business */
    self->ended = self->context ? PyObject_CallMethod(loop, "create_future", NULL) : NULL;
    if (!self->ended) Py_CLEAR(self);
    return (PyObject *)self;
}

static int stepper_traverse(Stepper *self, visitproc visit, void *arg)
{
    Py_VISIT(self->loop);
    Py_VISIT(self->context);
    Py_VISIT(self->ended);
    Py_VISIT(self->coroutine);
    Py_VISIT(self->waits_for);
    return 0;
}

static int stepper_clear(Stepper *self)
{
    Py_CLEAR(self->coroutine);
    Py_CLEAR(self->waits_for);
    Py_CLEAR(self->ended);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    return 0;
}

static void stepper_dealloc(Stepper *self)
{
    PyObject_GC_UnTrack(self);
    stepper_clear(self);
    Py_CLEAR(self->name);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef stepper_methods[] = {
    {"begin", (PyCFunction)stepper_begin, METH_O, "begin(coroutine): run it from the next turn of the loop on."},
    {"wake", (PyCFunction)stepper_wake, METH_NOARGS, "wake(): let it go on in the next turn, if it rests."},
    {"go", (PyCFunction)stepper_go, METH_NOARGS, "go(): let it go on inside this call, if it rests."},
    {"cancel", (PyCFunction)stepper_cancel, METH_NOARGS, "cancel(): raise CancelledError where it waits, soon."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef stepper_members[] = {
    {"resting", T_BOOL, offsetof(Stepper, resting), READONLY, "whether it waits for wake or go"},
    {"ended", T_OBJECT_EX, offsetof(Stepper, ended), READONLY, "a future, done when the coroutine is over"},
    {NULL, 0, 0, 0, NULL},
};

static PyAsyncMethods stepper_async = {
    .am_await = PyObject_SelfIter,
    .am_send = (sendfunc)stepper_send,
};

PyTypeObject sira_stepper_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "sira._native.Stepper",
    .tp_basicsize = sizeof(Stepper),
    .tp_new = stepper_new,
    .tp_dealloc = (destructor)stepper_dealloc,
    .tp_traverse = (traverseproc)stepper_traverse,
    .tp_clear = (inquiry)stepper_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Stepper, vectorcall),
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)stepper_next,
    .tp_as_async = &stepper_async,
    .tp_methods = stepper_methods,
    .tp_members = stepper_members,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "Stepper(name, loop): runs one coroutine from callbacks; `await stepper` in it rests.",
};

int sira_add_stepper(PyObject *module)
{
    names.blocking = PyUnicode_InternFromString("_asyncio_future_blocking");
    names.add_done_callback = PyUnicode_InternFromString("add_done_callback");
    names.call_soon = PyUnicode_InternFromString("call_soon");
    names.cancel = PyUnicode_InternFromString("cancel");
    names.context_only = Py_BuildValue("(s)", "context");
    PyObject *exceptions = PyImport_ImportModule("asyncio.exceptions"); /* owned */
    names.cancelled_error = exceptions ? PyObject_GetAttrString(exceptions, "CancelledError") : NULL;
    Py_XDECREF(exceptions);
    if (!names.blocking || !names.add_done_callback || !names.call_soon || !names.cancel || !names.context_only
        || !names.cancelled_error)
        return -1;
    return sira_add_type(module, &sira_stepper_type);
}
