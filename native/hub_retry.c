/* Room was made at subscriptions where publishers wait: a walk over all topics of all streams at which messages wait
 * posts what fits now. Nearly always few wait, and it is over at once. Where it takes longer (very many topics, or rules
 * that have changed: Python is asked anew about each), the rest is done in slices that the node's timer asks for; room
 * that is made meanwhile is for the rest of this walk, and then for another one. */
#include "hub_stream.h"
#include "pyutil.h"

enum {
    RETRY_AT_ONCE_NS = 200000, /* 4,000 topics that find no room, or some that Python is asked about */
    RETRY_SLICE_NS = 1000000,
    STREAMS_A_LOOK = 8, /* between two looks at the clock */
    TOPICS_A_LOOK = 8,  /* the same; one that Python was asked about is the last of them */
};

int ingress_retry(Ingress *in, uint64_t now_ns, uint64_t until_ns)
{
    Hub *hub = in->hub;
    assert(hub->retry_in == in);
    struct route_entry *entry = hub->retry_entry ? hub->retry_entry : in->parked, *next;
    hub->retry_entry = NULL; /* nothing of it is moved by what runs inside: it is busy, or left alone */
    if (in->busy) { /* it is at work and called us: later */
        hub->retry = true;
        return 1;
    }
    in->busy = true;
    int rc = 1;
    uint64_t resolved = hub->routes_resolved;
    unsigned topics = 0;
    for (; entry && rc == 1; entry = next) {
        const int left = entry_retry(in, entry, now_ns, until_ns);
        if (left != 0) rc = left < 0 ? -1 : 0;
        next = left > 0 ? entry : entry->parked_next;
        entry_update(in, entry);
        if (++topics < TOPICS_A_LOOK && hub->routes_resolved == resolved) continue;
        topics = 0;
        resolved = hub->routes_resolved;
        if (rc == 1 && next && sira_now_mono_ns() >= until_ns) rc = 0;
    }
    if (rc == 0) hub->retry_entry = entry;
    ingress_unfull(in);
    ingress_leave(in, now_ns); /* if it was closed meanwhile, the walk goes on behind it */
    return rc;
}

/* Room was made at a subscription where publishers wait. Those who find none again say so again. */
static void retry_begin(Hub *hub)
{
    hub->retry = false;
    if (hub->parked == hub->waiting) return; /* nobody waits for a subscriber */
    for (Sub *sub = hub->watched; sub; sub = sub->watched_next) sub->blocked = false; /* no other is */
    hub->retry_in = hub->ingresses;
    hub->retry_entry = NULL;
}

static void retry_go_on(Hub *hub, uint64_t now_ns, uint64_t until_ns)
{
    unsigned streams = 0;
    hub->retrying = true;
    while (hub->retry_in) {
        Ingress *in = (Ingress *)Py_NewRef(hub->retry_in); /* owned: Python runs inside */
        const int rc = in->parked_count > in->waiting ? ingress_retry(in, now_ns, until_ns) : 1;
        if (rc < 0) PyErr_WriteUnraisable((PyObject *)in);
        if (rc != 0 && hub->retry_in == in) {
            hub->retry_in = in->hub_next;
            hub->retry_entry = NULL;
        }
        Py_DECREF(in);
        if (rc == 0 || (++streams % STREAMS_A_LOOK == 0 && sira_now_mono_ns() >= until_ns)) break;
    }
    hub->retrying = false;
}

void hub_retry(Hub *hub, uint64_t now_ns)
{
    if (hub->retrying || hub->retry_in) return; /* called from inside: the next call does it; or from slice to slice */
    retry_begin(hub);
    if (!hub->retry_in) return;
    retry_go_on(hub, now_ns, sira_now_mono_ns() + RETRY_AT_ONCE_NS);
    if (hub->retry_in) hub->hurry_due = true;
}

void hub_retry_slice(Hub *hub, uint64_t now_ns)
{
    if (hub->retrying) return;
    if (!hub->retry_in && hub->retry) retry_begin(hub);
    if (hub->retry_in) retry_go_on(hub, now_ns, sira_now_mono_ns() + RETRY_SLICE_NS);
}
