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
// # The way of a message
//
// Publish (publish.go) looks up the stream that captures the topic and creates
// one if there is none (stream.go), sends the message (publication.go) through
// one place for all publishers (outbox.go), and returns when the stream has
// acknowledged it (acks.go, replies.go). Whether there is a connection tells
// link.go. Subscribe (subscription.go) binds a
// durable pull consumer for the queue, or one of its own without a queue
// (consumer.go), and starts a worker: fetch in batches (pull.go, batch.go),
// handle in order (worker.go), settle (settle.go), repeat. While a handler
// runs, the ack deadline is extended (keepalive.go). Headers change their
// spelling on the way in and out (header.go), and Disconnect waits for what is
// under way (shutdown.go). Every step is an event that [Hooks] can observe
// (hooks.go), those of the connection in their order (states.go); the packages metrics and tracing are two such observers.
//
// # What a handler's return means
//
// nil acknowledges the message. An error, or a panic, has it delivered again
// after a delay that grows from 1 to 30 seconds. [RetryAfter] chooses that
// delay; [Discard] gives the message up. With [WithDeadLetter], what is given
// up is published to a topic of its own first.
//
// # Delivery
//
// At least once, and in the order of the stream as long as nothing is delivered
// again and a subscription runs one handler at a time, the default. Handlers
// must expect duplicates: a crash between the handler's success and its
// acknowledgement delivers the message again.
//
// All exported functions and methods are safe for concurrent use.
package broker
