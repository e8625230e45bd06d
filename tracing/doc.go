// Package tracing traces messages with OpenTelemetry: one trace follows an event from
// its publisher through every service that handles it.
//
// Install it with [jsbroker.WithHooks]:
//
//	otel.SetTracerProvider(provider)
//	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(
//		propagation.TraceContext{}, propagation.Baggage{}))
//
//	broker := jsbroker.NewBroker(jsbroker.WithHooks(tracing.New()))
//
// Do not forget the propagator. OpenTelemetry's global propagator does nothing until
// it is set: spans are made, but the headers do not carry their context, and every
// service starts new traces. The hooks report this once, through otel.Handle; see
// [WithPropagator].
//
// # Spans
//
// Names and attributes follow the semantic conventions for messaging, version 1.43.0,
// which are still in development.
//
//	span             kind      starts                   ends                     parent
//	publish <topic>  PRODUCER  Publish is called        the outcome is known     the span in broker.PublishContext, else the headers', else none
//	process <topic>  CONSUMER  before the handler runs  the message is settled   the headers', else none
//
// The topic of a process span is the topic subscribed to: a wildcard subscription
// names its spans by the pattern. This is what happens to the spans of one message, in
// this order:
//
//	order  hook          what happens                           state
//	1      PublishStart  the publish span starts                its context is now in the header
//	2      Published     status and attributes; the span ends   the stream has the message, or the publish failed
//	3      HandleStart   the process span starts                its context is now in the header and in jsbroker.EventContext
//	4      Panicked      event exception with the stack         the handler panicked
//	5      DeadLettered  event dead_letter                      the message goes to the dead-letter topic
//	6      Exhausted     event exhausted                        there will be no further delivery
//	7      Handled       status and attributes; the span ends   the message is acked, nakked, terminated or left unsettled
//
// Each redelivery has its own process span, with the same parent and a link to the
// span of the delivery before it, if that one was handled by the same process and
// sampled. The last 4096 of them are remembered. A message that was fetched but skipped
// or given back has no span, because no handler has seen it.
//
// # Attributes
//
//	attribute                              publish  process   value
//	messaging.system                       always   always    nats
//	messaging.operation.name               always   always    publish; process
//	messaging.operation.type               always   always    send; process
//	messaging.destination.name             always   always    the concrete subject
//	messaging.destination.template         -        wildcard  the pattern subscribed to
//	messaging.consumer.group.name          -        queue     the queue of the subscription
//	messaging.message.id                   always   present   the publisher's message id, Nats-Msg-Id
//	messaging.message.body.size            always   always    bytes of the body
//	messaging.nats.stream.name             success  always    the stream
//	messaging.nats.stream.sequence         success  always    the position in the stream
//	messaging.nats.consumer.name           -        always    the JetStream consumer; durable if there is a queue
//	messaging.nats.message.duplicate       success  -         true if the stream had the message id already and stored nothing
//	messaging.nats.message.delivery_count  -        always    1 for the first delivery
//	messaging.nats.message.wait            -        always    seconds in the stream, from storing until the handler starts, by two clocks
//	messaging.nats.result                  -        always    ack, nak, term or none
//	messaging.nats.redelivery.delay        -        nak       seconds asked for with the nak; 0 is at once
//	messaging.client.id                    known    known     the name of the NATS connection, see jsbroker.WithClientName
//	server.address                         known    known     the host of the NATS server
//	server.port                            known    known     the port of the NATS server
//	error.type                             error    error     see Status
//
// A sampler sees the name and kind of the span, and the attributes that all messages
// of a topic or subscription share. The other attributes are set when the span ends,
// on recording spans only.
//
// The server is the one that the broker is connected to, or was connected to last. If
// several brokers share the hooks, it is known only while they are on the same server,
// and the client's name only while they have the same.
//
// # Events
//
//	event        attribute                        when
//	stored       -                                always, on a process span; the time is when the stream stored the message, by the server's clock
//	exception    exception.type                   always
//	exception    exception.message                always
//	exception    exception.stacktrace             after a panic or runtime.Goexit
//	dead_letter  messaging.nats.dead_letter.topic always
//	dead_letter  error.type                       the dead letter could not be published
//	dead_letter  exception.message                the dead letter could not be published
//	exhausted    -                                -
//	snooze       -                                the handler returned Snooze
//	give_back    -                                this process had fetched the message before, and given it back; the time is when
//
// The event stored precedes its span. In a waterfall it shows where the wait in the
// stream began, also if the publisher has no span that was sampled. On a redelivery,
// what lies between includes the deliveries before.
//
// # Status
//
// The status stays unset on success, as the conventions ask. A duplicate is a success.
// A failure sets the status to Error and adds an error.type and an exception event. Of
// an error of go-micro, whose text is JSON, the description is the detail:
//
//   - The publish failed: error.type is the [jsbroker.Reason] of the error.
//   - The handler returned an error, also one made with Discard or RetryAfter, but
//     not with Snooze: error.type is the Go type of the cause, or the result of its
//     ErrorType method.
//   - The handler panicked or called runtime.Goexit: error.type is panic or goexit.
//   - The handler succeeded, but its acknowledgement could not be sent, so that the
//     message will be delivered again: error.type is the [jsbroker.Reason].
//
// # Headers
//
// Trace headers are read in any case and written once, in lower case. [HeaderCarrier]
// does the same for your own code. The context of the span replaces the old trace
// headers. Baggage in the header is kept, unless the context of the publish has
// baggage.
//
// A handler that publishes should pass on its context, so that the new message becomes
// a child of the process span:
//
//	err := b.Publish(topic, msg, broker.PublishContext(jsbroker.EventContext(event)))
//
// Without that, the headers decide. A handler that copies the header of its message
// also stays in the trace, because that header has the process span.
//
// # Limits
//
// The context of a subscription, broker.SubscribeContext, gives its messages neither a
// parent nor baggage.
//
// A trace does not end while a message waits in its stream. For messages that wait
// long or have many subscribers, see [WithLinks].
package tracing
