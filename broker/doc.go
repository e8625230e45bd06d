// Package broker is go-micro's broker.Broker on NATS JetStream. It shows what it does:
// every step of a message's life is an event.
//
//	import (
//		"go-micro.dev/v5/broker"
//		jsbroker "go-micro-jetstream/broker"
//	)
//
//	b := jsbroker.NewBroker(broker.Addrs("nats://localhost:4222"))
//
// [NewBroker] returns the broker. Pass it to micro.Broker, or call its Connect,
// Publish, Subscribe and Disconnect yourself. All exported functions and methods are
// safe for concurrent use.
//
// # Streams
//
// A topic is a NATS subject, such as orders.created. A stream stores what is
// published to its subjects. Publish returns when a stream has stored the message,
// and the message waits there for its handlers.
//
// If a stream captures the topic already, the broker uses it. Otherwise it creates
// one that is named after the first token of the topic: ORDERS, which captures
// orders and orders.>. [WithStreamConfig] is the template for such a stream, and
// [WithStreamName] names it. With [WithExistingStreams] the broker creates none.
//
// # Queues and durables
//
// A consumer is the server's record of what a queue has handled. A subscription with
// broker.Queue has a durable consumer (a durable, for short) that is named after the
// queue. All replicas of a service share it, and each message goes to one of them. It
// survives Unsubscribe, restarts and deploys: messages that are published while no
// replica is running wait.
//
// A subscription without a queue has its own consumer, which ends with the
// subscription.
//
// [WithConsumerConfig] is the template for consumers, and [ConsumerConfig] that of one
// subscription. If you change a setting in the code later, the broker changes it on the
// streams and consumers that it created. It never changes those of others. With
// [WithExistingConsumers] the broker creates none.
//
// # Retention
//
// The retention of a stream says how long it keeps a message, and who gets it:
//
//   - WorkQueue, the default, keeps a message until it is acknowledged once. Only one
//     queue, with any number of replicas, can subscribe to a topic. A second queue gets
//     [ErrWorkQueueConflict].
//   - Interest keeps a message until every queue has acknowledged it. Each queue gets
//     its copy. What is published while there is no queue is dropped.
//   - Limits keeps a message until a limit of the stream removes it. A new queue gets
//     old messages, too.
//
// # What a handler's return means
//
// A worker fetches messages, calls the handler, and settles each message:
//
//   - nil acknowledges it.
//   - After an error or a panic the message is delivered again. The delay grows from 1
//     to 30 seconds, unless [RetryAfter] sets it.
//   - After [Snooze] it is delivered again, too, but nothing has failed.
//   - [Discard] gives it up.
//
// A message is also given up when it fails on the last delivery that MaxDeliver allows.
// With [WithDeadLetter] it is published to another topic first, and [Redrive] sends it
// back later. With broker.DisableAutoAck the handler settles the message itself, with
// the event's Ack, [Nak] or [Terminate].
//
// In a handler, [EventContext] is the context of the delivery, [NumDelivered] counts
// deliveries, and [Stopping] says when the subscription is about to end.
//
// # Delivery
//
// Messages are delivered at least once, so handlers must expect duplicates: after a
// crash between the handler's success and its acknowledgement, the message is delivered
// again. A subscription runs one handler at a time and keeps the order of the stream,
// except for messages that are delivered again. [WithConcurrency] and [Concurrency]
// run several.
//
// Publish retries what is safe to retry. If it cannot know whether the message is
// stored, it returns [ErrPublishUnknown] in a [PublishError]. With the id in that
// error, a [MessageID], it is safe to publish again. [Async] does not wait for the
// answer, [DeliverAt] and [DeliverAfter] have a message delivered later, and [TTL]
// limits its life.
//
// # Observing
//
// Every step is an event that [Hooks] can observe. The packages metrics, tracing and
// dashboards/live are such observers. [Health] is for readiness probes. Errors are
// sentinels for errors.Is, and [Reason] gives their short names.
package broker
