// Package broker is go-micro's broker.Broker on NATS JetStream, made to be seen
// into.
//
//	import (
//		"go-micro.dev/v5/broker"
//		jsbroker "go-micro-jetstream/broker"
//	)
//
//	b := jsbroker.NewBroker(broker.Addrs("nats://localhost:4222"))
//
// # Publish and subscribe
//
// Publish stores a message in the stream that captures its topic, and returns
// when the stream has acknowledged it. If there is no such stream, the broker
// creates one. Subscribe with broker.Queue binds a durable consumer, which all
// replicas of a service share and which survives restarts. Without a queue, the
// subscription has a consumer of its own. Workers fetch messages in batches,
// call the handler, and settle each message: ack, nak or term.
//
// # What a handler's return means
//
// nil acknowledges the message. After an error, or a panic, the message is
// delivered again, with a delay that grows from 1 to 30 seconds. [RetryAfter]
// chooses that delay. [Snooze] chooses one, too, and is no failure. [Discard]
// gives the message up. With [WithDeadLetter], a message that is given up is
// first published to a topic of its own.
//
// # Delivery
//
// Messages are delivered at least once. By default a subscription runs one
// handler at a time and keeps the order of the stream, except for messages that
// are delivered again. Handlers must expect duplicates: after a crash between
// the handler's success and its acknowledgement, the message is delivered again.
//
// # Observing
//
// Every step is an event that [Hooks] can observe. The packages metrics and
// tracing are two such observers.
//
// All exported functions and methods are safe for concurrent use.
package broker
