package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	natsbroker "go-micro.dev/v5/broker/nats"
	"go-micro.dev/v5/events"
	"go-micro.dev/v5/events/natsjs"
	"go-micro.dev/v5/registry"

	jsbroker "go-micro-jetstream/broker"
)

// peer is one of the libraries, set up as its documentation says.
type peer struct {
	name      string
	stored    bool // keeps messages in a stream, on disk
	retention jetstream.RetentionPolicy
	open      func(url string) (*session, error)
}

// session is what a process that uses the library has: a connection of its own.
type session struct {
	publish   func(topic string) error
	subscribe func(topic string, handle func() error) error
	close     func()
}

// group is the name of the queue, or group, that all subscribers share.
const group = "workers"

var (
	body   = []byte(strings.Repeat("x", 256))
	header = map[string]string{"Content-Type": "application/json", "Micro-Topic": "compare", "Micro-Id": "0123456789"}
)

// peers returns the libraries that are compared. The speed of the others is relative
// to the first one.
//
// docs/comparison.md also says things about them that this program does not measure. They
// come from these files of go-micro v5.30.0:
//
//   - broker/http.go: saveMessage keeps 64 messages, and Publish returns before its
//     goroutine posts;
//   - broker/nats/nats.go: Publish, and the function that Subscribe makes;
//   - broker/rabbitmq/rabbitmq.go and options.go: AckOnSuccess, RequeueOnError,
//     ConfirmPublish, DurableQueue;
//   - events/natsjs/nats.go: PublishAsync, StreamInfo(topic), and no ManualAck, so that
//     js.go of nats.go acknowledges after handleMsg;
//   - server/rpc_router.go: ProcessMessage recovers panics.
//
// And from these files of watermill-nats v2.1.3 and watermill v1.5.1:
//
//   - pkg/nats/subscriber.go and pkg/jetstream/message_handler.go: Acked, Nacked,
//     AckWaitTimeout;
//   - message/router/middleware: Recoverer, PoisonQueue, Retry;
//   - components/metrics.
func peers() []peer {
	reg := registry.NewMemoryRegistry() // go-micro's HTTP brokers find each other through it
	return []peer{
		{"nats.go", true, jetstream.WorkQueuePolicy, openRaw},
		{"**this broker**", true, jetstream.WorkQueuePolicy, func(url string) (*session, error) {
			return openBroker(jsbroker.NewBroker(broker.Addrs(url)))
		}},
		{"watermill-nats, `pkg/nats`", true, jetstream.WorkQueuePolicy, openWatermillNATS},
		{"watermill-nats, `pkg/jetstream` (beta)", true, jetstream.WorkQueuePolicy, openWatermillJetStream},
		// Its consumers start with new messages only, which a WorkQueue stream refuses.
		{"go-micro `events/natsjs`", true, jetstream.LimitsPolicy, openEvents},
		{"go-micro NATS broker", false, 0, func(url string) (*session, error) {
			return openBroker(natsbroker.NewNatsBroker(broker.Addrs(url)))
		}},
		{"go-micro HTTP broker, its default", false, 0, func(string) (*session, error) {
			return openBroker(broker.NewHttpBroker(broker.Registry(reg)))
		}},
	}
}

// openBroker opens a session with one of go-micro's brokers.
func openBroker(b broker.Broker) (*session, error) {
	if err := b.Connect(); err != nil {
		return nil, err
	}
	return &session{
		publish: func(topic string) error {
			return b.Publish(topic, &broker.Message{Header: header, Body: body})
		},
		subscribe: func(topic string, handle func() error) error {
			_, err := b.Subscribe(topic, func(broker.Event) error { return handle() }, broker.Queue(group))
			return err
		},
		close: func() { _ = b.Disconnect() },
	}, nil
}

// openRaw opens a session with nats.go itself.
func openRaw(url string) (*session, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	return &session{
		publish: func(topic string) error {
			m := nats.NewMsg(topic)
			m.Data = body
			for k, v := range header {
				m.Header.Set(k, v)
			}
			_, err := js.PublishMsg(ctx, m)
			return err
		},
		subscribe: func(topic string, handle func() error) error {
			c, err := js.CreateOrUpdateConsumer(ctx, topic, jetstream.ConsumerConfig{Durable: group, AckPolicy: jetstream.AckExplicitPolicy})
			if err != nil {
				return err
			}
			_, err = c.Consume(func(m jetstream.Msg) {
				if handle() != nil {
					_ = m.Nak()
					return
				}
				_ = m.Ack()
			})
			return err
		},
		close: nc.Close,
	}, nil
}

// openEvents opens a session with go-micro's package events/natsjs.
func openEvents(url string) (*session, error) {
	// The defaults would not be comparable: Publish returns before the server has
	// answered, and a group receives only what is published after its first Consume.
	s, err := natsjs.NewStream(natsjs.Address(url), natsjs.SynchronousPublish(true))
	if err != nil {
		return nil, err
	}
	return &session{
		publish: func(topic string) error {
			return s.Publish(topic, body, events.WithMetadata(header))
		},
		subscribe: func(topic string, handle func() error) error {
			messages, err := s.Consume(topic, events.WithGroup(group), events.WithOffset(time.Unix(1, 0)))
			if err != nil {
				return err
			}
			go func() {
				for e := range messages {
					if handle() != nil {
						_ = e.Nack()
						continue
					}
					_ = e.Ack()
				}
			}()
			return nil
		},
		close: func() { _ = s.(interface{ Close() error }).Close() },
	}, nil
}

// openWatermillNATS opens a session with watermill-nats, package nats.
func openWatermillNATS(url string) (*session, error) {
	js := wmnats.JetStreamConfig{
		DurablePrefix:    group,
		SubscribeOptions: []nats.SubOpt{nats.DeliverAll(), nats.AckExplicit()},
	}
	pub, err := wmnats.NewPublisher(wmnats.PublisherConfig{URL: url, JetStream: js}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	sub, err := wmnats.NewSubscriber(wmnats.SubscriberConfig{URL: url, JetStream: js, QueueGroupPrefix: group}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	return watermillSession(pub, sub), nil
}

// openWatermillJetStream opens a session with watermill-nats, package jetstream.
func openWatermillJetStream(url string) (*session, error) {
	// The default logger would write a line for each message.
	pub, err := wmjetstream.NewPublisher(wmjetstream.PublisherConfig{URL: url, Logger: watermill.NopLogger{}})
	if err != nil {
		return nil, err
	}
	sub, err := wmjetstream.NewSubscriber(wmjetstream.SubscriberConfig{
		URL: url, Logger: watermill.NopLogger{}, ResourceInitializer: wmjetstream.GroupedConsumer(group),
	})
	if err != nil {
		return nil, err
	}
	return watermillSession(pub, sub), nil
}

func watermillSession(pub message.Publisher, sub message.Subscriber) *session {
	return &session{
		publish: func(topic string) error {
			m := message.NewMessage(watermill.NewUUID(), body)
			m.Metadata = header
			return pub.Publish(topic, m)
		},
		subscribe: func(topic string, handle func() error) error {
			messages, err := sub.Subscribe(context.Background(), topic)
			if err != nil {
				return err
			}
			go func() {
				for m := range messages {
					if handle() != nil {
						m.Nack()
						continue
					}
					m.Ack()
				}
			}()
			return nil
		},
		close: func() {
			_ = sub.Close()
			_ = pub.Close()
		},
	}
}

// connect opens a session. Its error names the library.
func (p peer) connect(url string) (*session, error) {
	s, err := p.open(url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return s, nil
}
