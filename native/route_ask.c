/* Asking and answering past the node: what a request and its answer say of themselves, written without Options. Read route.h
 * first. The fields are those that client/requests.py and client/answers.py give where there is nothing more to say. */
#include "route.h"

#include "message.h"
#include "pb.h"

/* Field numbers of sira.v1.Message, in the order of native/options.c. */
enum {
    F_REPLY_TO = 5, F_CORRELATION_ID = 8, F_CAUSATION_ID = 9, F_STREAM_ID = 20, F_STREAM_END = 22, F_REPLY_KIND = 23,
    REPLY_FINAL = 1,
    /* A topic or three ids, each with its key and length, and two numbers. */
    FIELDS_BYTES_MAX = SIRA_TOPIC_BYTES_MAX + 4 * (SIRA_ID_BYTES + 4) + 16,
};

/* Post with the fields that end at `end`; loan: where the body lies already, or NULL. -1: an exception; else whether it
 * went past the node. */
static int post(Outbox *self, PyObject *topic, PyObject *body_object, struct sira_options *options, const uint8_t *fields,
                const uint8_t *end, PyObject *loan, int64_t wait_ns)
{
    struct sira_body body;
    struct sira_receipt receipt; /* nobody asks for it */
    uint8_t id[SIRA_ID_BYTES];
    assert(end - fields <= FIELDS_BYTES_MAX);
    options->fields = fields;
    options->fields_len = (size_t)(end - fields);
    options->quiet = true;
    if (sira_body_from_py(body_object, &body) < 0) return -1; /* may run anything */
    const enum outbox_direct result = outbox_direct_wait(self, topic, &body, options, loan, id, &receipt, wait_ns);
    sira_body_clear(&body);
    return result == DIRECT_FAILED ? -1 : result == DIRECT_POSTED;
}

/* ask(topic, body, id, reply_to, timeout_s, loan=None) -> bool */
PyObject *outbox_ask(Outbox *self, PyObject *const *args, Py_ssize_t count)
{
    if ((count != 5 && count != 6) || !PyBytes_Check(args[2]) || PyBytes_GET_SIZE(args[2]) != SIRA_ID_BYTES) {
        PyErr_SetString(PyExc_TypeError, "ask(topic, body, id, reply_to, timeout_s, loan=None)");
        return NULL;
    }
    PyObject *loan = count == 6 && args[5] != Py_None ? args[5] : NULL; /* borrowed */
    if (loan && outbox_check_chunk(loan) < 0) return NULL;
    if (!route_live(self, args[0])) Py_RETURN_FALSE;
    struct sira_options options = {.has_id = true};
    const uint8_t *id = (const uint8_t *)PyBytes_AS_STRING(args[2]);
    memcpy(options.id, id, SIRA_ID_BYTES);
    int64_t wait_ns = INT64_MAX; /* as long as a route waits */
    if (args[4] != Py_None) {
        enum { MS_MAX = UINT32_MAX };
        const double left_s = PyFloat_AsDouble(args[4]);
        if (left_s == -1 && PyErr_Occurred()) return NULL;
        const double left_ns = left_s * 1e9;
        options.ttl_ns = left_ns < 1 ? 1 : left_ns < 9e18 ? (uint64_t)left_ns : UINT64_C(9000000000000000000);
        options.has_wait = true;
        options.wait_ms = options.ttl_ns / 1000000 > MS_MAX ? MS_MAX : (uint32_t)(options.ttl_ns / 1000000);
        if (options.ttl_ns < (uint64_t)wait_ns) wait_ns = (int64_t)options.ttl_ns;
    }
    struct sira_slice reply_to;
    uint8_t fields[FIELDS_BYTES_MAX];
    if (sira_topic_of_py(args[3], &reply_to) < 0) return NULL;
    uint8_t *at = pb_put_bytes(fields, F_REPLY_TO, reply_to.data, reply_to.len);
    at = pb_put_bytes(at, F_CORRELATION_ID, id, SIRA_ID_BYTES);
    const int posted = post(self, args[0], args[1], &options, fields, at, loan, wait_ns);
    return posted < 0 ? NULL : PyBool_FromLong(posted);
}

/* answer(message, body, wait_s=as long as a route waits) -> bool */
PyObject *outbox_answer(Outbox *self, PyObject *const *args, Py_ssize_t count)
{
    if ((count != 2 && count != 3) || !PyObject_TypeCheck(args[0], &sira_message_type)) {
        PyErr_SetString(PyExc_TypeError, "answer(message, body, wait_s=as long as a route waits)");
        return NULL;
    }
    const int64_t wait_ns = count == 3 ? outbox_wait_ns(args[2]) : INT64_MAX;
    if (wait_ns < 0) return NULL;
    const struct message *message = (const struct message *)args[0];
    if (!self->routes.live.count || !message->reply_to.len || !message->id || message->is_traced) Py_RETURN_FALSE;
    PyObject *topic = PyUnicode_DecodeUTF8((const char *)message->reply_to.data, (Py_ssize_t)message->reply_to.len, NULL);
    if (!topic) return NULL; /* owned */
    const ShmRoute *route = route_live(self, topic); /* borrowed */
    int posted = route && !route->lined;
    if (posted) {
        struct sira_options options = {.priority = message->priority};
        uint8_t fields[FIELDS_BYTES_MAX];
        const uint8_t *conversation = message->correlation_id ? message->correlation_id : message->id;
        uint8_t *at = pb_put_bytes(fields, F_CORRELATION_ID, conversation, SIRA_ID_BYTES);
        at = pb_put_bytes(at, F_CAUSATION_ID, message->id, SIRA_ID_BYTES);
        at = pb_put_bytes(at, F_STREAM_ID, message->id, SIRA_ID_BYTES);
        at = pb_put_uint(at, F_STREAM_END, 1);
        at = pb_put_uint(at, F_REPLY_KIND, REPLY_FINAL);
        posted = post(self, topic, args[1], &options, fields, at, NULL, wait_ns);
    }
    Py_DECREF(topic);
    return posted < 0 ? NULL : PyBool_FromLong(posted);
}
