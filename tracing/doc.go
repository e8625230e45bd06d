// Package tracing follows messages with OpenTelemetry: one trace from the
// publisher through every service that handles the event.
//
//	otel.SetTracerProvider(provider)
//	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(
//		propagation.TraceContext{}, propagation.Baggage{}))
//
//	broker := jsbroker.NewBroker(jsbroker.WithHooks(tracing.New()))
//
// Mind the second line. OpenTelemetry's global propagator does nothing until it
// is set: spans are made, but no header carries them on, and every service has
// traces of its own. The first message that this happens to is reported through
// otel.Handle; see [WithPropagator].
//
// # Spans
//
// The names follow the semantic conventions for messaging, version 1.43.0, which
// are still in development.
//
//	span             kind      starts                   ends                     parent
//	publish <topic>  PRODUCER  Publish is called        the outcome is known     the span in broker.PublishContext, else the headers', else none
//	process <topic>  CONSUMER  before the handler runs  the message is settled   the headers', else none
//
// The topic of a process span is the one subscribed to: a wildcard subscription
// names its spans by the pattern. The order of one message's life:
//
//	order  hook          operation                              state
//	1      PublishStart  start the publish span                 its context is in the header
//	2      Published     status, where it was stored, end       the stream has it, or the publish failed
//	3      HandleStart   start the process span                 its context is in the header and in jsbroker.EventContext
//	4      Panicked      event exception with the stack         if the handler panicked
//	5      DeadLettered  event dead_letter                      if it goes to the dead-letter topic
//	6      Exhausted     event exhausted                        if there will be no further delivery
//	7      Handled       status, exception, result, end         acked, nakked, terminated or left
//
// A redelivery is a second process span with the same parent. Messages that were
// fetched and then given back or skipped have been seen by no handler and have no
// process span.
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
//	messaging.nats.consumer.name           -        always    the JetStream consumer; a durable if there is a queue
//	messaging.nats.message.duplicate       success  -         the stream had the message id already and stored nothing
//	messaging.nats.message.delivery_count  -        always    1 for the first delivery
//	messaging.nats.result                  -        always    ack, nak, term or none
//	messaging.nats.redelivery.delay        -        nak       seconds; 0 is at once
//	server.address                         known    known     the host of the NATS server
//	server.port                            known    known     its port
//	error.type                             error    error     see below
//
// The message's own attributes are set after the start, on recorded spans only. A
// sampler sees the name, the kind and what all messages of a topic or a
// subscription share.
//
// The server is the one that the broker is connected to, or was last. Where several
// brokers share the hooks, it is known while they are on the same one.
//
// # Events
//
//	event        attribute                        when
//	exception    exception.type                   always
//	exception    exception.message                always
//	exception    exception.stacktrace             after a panic or runtime.Goexit
//	dead_letter  messaging.nats.dead_letter.topic always
//	dead_letter  error.type                       the dead letter could not be published
//	dead_letter  exception.message                the dead letter could not be published
//	exhausted    -                                -
//
// # Status
//
// The status stays unset on success, as the conventions ask, and is Error, with an
// error.type and an exception event, when
//
//   - a publish failed: error.type is [jsbroker.Reason] of the error. A duplicate
//     is a success;
//   - the handler returned an error, one made by Discard included: error.type
//     is its Go type, or what its ErrorType method says;
//   - the handler panicked or called runtime.Goexit: error.type is panic or goexit;
//   - the handler succeeded, but the acknowledgement could not be sent, so that
//     the message comes again: error.type is the [jsbroker.Reason].
//
// # Headers
//
// Trace headers are read in any case and written once, in lower case; see
// [HeaderCarrier] for two spellings side by side. The span's context replaces what
// the header had. Baggage in the header travels on; baggage in the context of a
// publish takes its place.
//
// A handler that publishes should pass on its context, so that the new message
// becomes a child of the handling:
//
//	err := b.Publish(topic, msg, broker.PublishContext(jsbroker.EventContext(event)))
//
// Without it, the headers decide: a handler that copies the map it was given stays
// in the trace, too, because HandleStart put the process span there.
//
// The context of a subscription, broker.SubscribeContext, gives its messages
// neither a parent nor baggage.
package tracing
