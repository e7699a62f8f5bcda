# What the C core is made of. A new file needs a line here, and nothing else.

# Without Python.h: linked into the extension, every C test and every fuzzer.
set(SIRA_PURE_SOURCES
  native/status.c
  native/utf8.c
  native/dtype.c
  native/topic.c
  native/envelope.c
  native/frame.c
  native/contract.c
  native/contract_unify.c
  native/ids.c
)

# With Python.h: the extension only.
set(SIRA_PYTHON_SOURCES
  native/module.c
  native/options.c
  native/body.c
  native/dlpack_in.c
  native/dlpack.c
  native/encode.c
  native/message.c
  native/message_fields.c
  native/view.c
  native/frame_py.c
  native/receipt.c
  native/topic_py.c
  native/hub.c
  native/hub_topic.c
  native/hub_walk.c
  native/hub_queue.c
  native/hub_sub.c
  native/hub_xfer.c
  native/hub_limits.c
  native/hub_route.c
  native/hub_post.c
  native/hub_wait.c
  native/hub_receipts.c
  native/hub_history.c
  native/hub_ingress.c
  native/hub_egress.c
  native/hub_stream.c
  native/client.c
  native/stepper.c
  native/pool.c
  native/mailbox.c
  native/inbox.c
  native/inbox_order.c
  native/inbox_transfer.c
  native/sender.c
  native/outbox.c
  native/outbox_batch.c
  native/outbox_upload.c
  native/outbox_feed.c
  native/outbox_lost.c
)
