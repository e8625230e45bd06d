package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// limit changes the limits of the account that all tests use who name none.
func limit(t testing.TB, s *server.Server, change func(*server.JetStreamAccountLimits)) {
	t.Helper()
	limits := server.JetStreamAccountLimits{
		MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}
	change(&limits)
	if err := s.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": limits}); err != nil {
		t.Fatal(err)
	}
}

func TestLimitsOfConsumersAreNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		options func(*server.Options)
		account func(*server.JetStreamAccountLimits)
		stream  int
		part    string
	}{
		"stream":  {stream: 2, part: "has 2 consumers, and its MaxConsumers is 2"},
		"account": {account: func(l *server.JetStreamAccountLimits) { l.MaxConsumers = 2 }, part: "has 2 consumers, and the account's max_consumers is 2"},
		"both": {stream: 5, account: func(l *server.JetStreamAccountLimits) { l.MaxConsumers = 2 },
			part: "has 2 consumers, and the account's max_consumers is 2"},
		"server": {options: func(o *server.Options) { o.JetStreamLimits.DefaultMaxConsumers = 2 }, part: "has 2 consumers, and neither it nor the account has a limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			change := func(*server.Options) {}
			if tt.options != nil {
				change = tt.options
			}
			s := startServer(t, change)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxConsumers: tt.stream})
			if tt.account != nil {
				limit(t, s, tt.account)
			}
			b := newBroker(t, s)
			first := subscribe(t, b, "orders.a", ignore, broker.Queue("q"))
			subscribe(t, b, "orders.a", ignore)
			for _, queue := range []string{"", "another"} {
				_, err := b.Subscribe("orders.a", ignore, broker.Queue(queue))
				wantError(t, err, jsbroker.ErrConsumerLimit, "ORDERS", tt.part, "raise that limit")
				if reason := jsbroker.Reason(err); reason != "consumer_limit" {
					t.Errorf("reason %q", reason)
				}
			}
			if err := js.DeleteConsumer(testContext(t), "ORDERS", "q"); err != nil {
				t.Fatal(err)
			}
			_ = first.Unsubscribe()
			subscribe(t, b, "orders.a", ignore, broker.Queue("another"))
		})
	}
}

func TestLimitsOfStreamsAreNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		template jetstream.StreamConfig
		account  func(*server.JetStreamAccountLimits)
		parts    []string
	}{
		"number":       {account: func(l *server.JetStreamAccountLimits) { l.MaxStreams = 1 }, parts: []string{"the account has 1 of 1", "max_streams", "Subjects"}},
		"storage":      {jetstream.StreamConfig{MaxBytes: 2000}, func(l *server.JetStreamAccountLimits) { l.MaxStore = 1000 }, []string{"of 1000 of storage", "MaxBytes of the stream is 2000"}},
		"memory":       {jetstream.StreamConfig{MaxBytes: 2000, Storage: jetstream.MemoryStorage}, func(l *server.JetStreamAccountLimits) { l.MaxMemory = 1000 }, []string{"0 of 1000 of memory", "MaxBytes of the stream is 2000"}},
		"a bound":      {account: func(l *server.JetStreamAccountLimits) { l.MaxBytesRequired = true }, parts: []string{"set MaxBytes with WithStreamConfig"}},
		"of one":       {jetstream.StreamConfig{MaxBytes: 2000}, func(l *server.JetStreamAccountLimits) { l.StoreMaxStreamBytes = 1000 }, []string{"MaxBytes is 2000", "permits 1000"}},
		"of one in it": {jetstream.StreamConfig{MaxBytes: 2000, Storage: jetstream.MemoryStorage}, func(l *server.JetStreamAccountLimits) { l.MemoryMaxStreamBytes = 1000 }, []string{"MaxBytes is 2000", "permits 1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := natsConn(t, s)
			natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "FIRST", Subjects: []string{"first"}, MaxBytes: 100})
			limit(t, s, tt.account)
			b := newBroker(t, s, jsbroker.WithStreamConfig(tt.template))
			parts := append(tt.parts, "create stream ORDERS", "WithStreamConfig")
			err := b.Publish("orders.a", message("x"))
			wantError(t, err, jsbroker.ErrStreamLimit, parts...)
			if reason := jsbroker.Reason(err); reason != "stream_limit" {
				t.Errorf("reason %q", reason)
			}
			_, err = b.Subscribe("orders.a", ignore)
			wantError(t, err, jsbroker.ErrStreamLimit, parts...)
			limit(t, s, func(*server.JetStreamAccountLimits) {})
			publish(t, b, "orders.a", "x")
		})
	}
}

func TestSettingsOfConsumersBeyondALimitAreNamed(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.JetStreamLimits.MaxRequestBatch = 5 })
	limit(t, s, func(l *server.JetStreamAccountLimits) { l.MaxAckPending = 7 })
	for part, template := range map[string]jetstream.ConsumerConfig{
		"MaxAckPending is 70":   {MaxAckPending: 70},
		"MaxRequestBatch is 50": {MaxAckPending: 7, MaxRequestBatch: 50},
	} {
		b := newBroker(t, s, jsbroker.WithConsumerConfig(template))
		for _, queue := range []string{"", "q"} {
			_, err := b.Subscribe("orders", ignore, broker.Queue(queue))
			wantError(t, err, jsbroker.ErrInvalidConfig, part, "WithConsumerConfig")
		}
	}
	b := newBroker(t, s)
	h, got := collector()
	subscribe(t, b, "orders", h, broker.Queue("q"))
	publish(t, b, "orders", "x")
	receive(t, got)
}

// A stream on disk has a bound of its own, apart from the server's max_payload.
func TestMessageThatTheFileStoreDoesNotTakeIsTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("under the race detector 33 MiB take longer than a try waits for the answer")
	}
	t.Parallel()
	b := newBroker(t, startServer(t, func(o *server.Options) { o.MaxPayload = 48 << 20 }))
	tooLarge := message(strings.Repeat("x", 33<<20))
	err := b.Publish("orders", tooLarge)
	for until := time.Now().Add(natstest.Patience); !errors.Is(err, jsbroker.ErrMessageTooLarge) && errors.Is(err, jsbroker.ErrPublishUnknown) && time.Now().Before(until); {
		err = b.Publish("orders", tooLarge) // a slow machine takes longer for the 33 MiB than a try waits
	}
	wantError(t, err, jsbroker.ErrMessageTooLarge, "ORDERS", "32 MiB")
	// The last try may have followed one that a slow machine did not answer in time.
	if reason := jsbroker.Reason(err); reason != "message_too_large" && !errors.Is(err, jsbroker.ErrPublishUnknown) {
		t.Errorf("reason %q", reason)
	}
	publish(t, b, "orders", "x")
}

// With one replica it works, so that nobody notices before there is a second one.
func TestSubscriberWithoutAQueueOnAWorkQueueIsWarned(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"events"}})
	log := natstest.NewLog()
	b := newBroker(t, s, broker.Logger(log))
	sub := subscribe(t, b, "events", ignore)
	subscribe(t, b, "orders", ignore, broker.Queue("q"))
	if lines := log.AtLeast(logger.WarnLevel); len(lines) > 0 {
		t.Errorf("warned: %v", lines)
	}
	_ = sub.Unsubscribe()
	for range 2 { // also after a restart
		sub := subscribe(t, b, "jobs", ignore)
		_, err := newBroker(t, s).Subscribe("jobs", ignore)
		wantError(t, err, jsbroker.ErrWorkQueueConflict, "name a queue", "JOBS")
		_ = sub.Unsubscribe()
	}
	lines := log.AtLeast(logger.WarnLevel)
	if len(lines) != 2 || !strings.Contains(lines[0].Text, "name a queue") || lines[0].Fields["stream"] != "JOBS" || lines[0].Fields["topic"] != "jobs" {
		t.Errorf("warned: %v", lines)
	}
}

// A stream is given limits under its subscribers, and their consumers are lost.
func TestConsumersMadeAgainKeepToTheLimitsOfTheirStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	limits := jetstream.StreamConsumerLimits{InactiveThreshold: 20 * time.Second, MaxAckPending: 5}
	for name, lose := range map[string]func(t *testing.T, cfg jetstream.StreamConfig){
		"the consumers": func(t *testing.T, cfg jetstream.StreamConfig) {
			for _, consumer := range natstest.ConsumerNames(t, js, cfg.Name) { // before the server takes the limits
				noErr(t, js.DeleteConsumer(testContext(t), cfg.Name, consumer))
			}
			natstest.UpdateStream(t, js, cfg)
		},
		"the stream": func(t *testing.T, cfg jetstream.StreamConfig) {
			noErr(t, js.DeleteStream(testContext(t), cfg.Name))
			natstest.MakeStream(t, js, cfg)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := jetstream.StreamConfig{Name: strings.ToUpper(name[4:]), Subjects: []string{name[4:]}, Metadata: map[string]string{"go-micro-jetstream": "1"}}
			natstest.MakeStream(t, js, cfg)
			b := newBroker(t, s)
			h, got := collector()
			for _, queue := range []string{"", "q"} {
				subscribe(t, b, name[4:], h, broker.Queue(queue))
			}
			cfg.ConsumerLimits = limits
			lose(t, cfg)
			eventually(t, "both consumers are there again", func() bool { return len(natstest.ConsumerNames(t, js, cfg.Name)) == 2 })
			publish(t, b, name[4:], "x")
			receive(t, got)
			receive(t, got)
			for _, consumer := range natstest.ConsumerNames(t, js, cfg.Name) {
				if cc := natstest.ConsumerInfo(t, js, cfg.Name, consumer).Config; cc.InactiveThreshold != limits.InactiveThreshold || cc.MaxAckPending != limits.MaxAckPending {
					t.Errorf("%s has %v and %d", consumer, cc.InactiveThreshold, cc.MaxAckPending)
				}
			}
		})
	}
}

func TestConsumersKeepToTheLimitsOfTheirStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := natsConn(t, s)
	limits := jetstream.StreamConsumerLimits{InactiveThreshold: 20 * time.Second, MaxAckPending: 5}
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, ConsumerLimits: limits})
	for name, tt := range map[string]struct {
		template *jetstream.ConsumerConfig
		queue    string
		want     jetstream.StreamConsumerLimits
		warnings []string
	}{
		"no queue":           {want: limits},
		"queue":              {queue: "q", want: limits, warnings: []string{"deletes consumer q"}},
		"a template below":   {template: &jetstream.ConsumerConfig{InactiveThreshold: time.Second, MaxAckPending: 2}, want: jetstream.StreamConsumerLimits{InactiveThreshold: time.Second, MaxAckPending: 2}},
		"a template beyond":  {template: &jetstream.ConsumerConfig{InactiveThreshold: time.Hour, MaxAckPending: 1000}, want: limits, warnings: []string{"asks for 1h0m0s", "asks for 1000"}},
		"no limit asked for": {template: &jetstream.ConsumerConfig{MaxAckPending: -1}, want: limits, warnings: []string{"asks for -1"}},
		"the same for a queue": {template: &jetstream.ConsumerConfig{InactiveThreshold: time.Hour, MaxAckPending: 1000}, queue: "r", want: limits,
			warnings: []string{"asks for 1h0m0s", "asks for 1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			log := natstest.NewLog()
			opts := []broker.Option{broker.Logger(log)}
			if tt.template != nil {
				opts = append(opts, jsbroker.WithConsumerConfig(*tt.template))
			}
			starts, hook := hookChan[jsbroker.SubscriptionStart]()
			b := newBroker(t, s, append(opts, jsbroker.WithHooks(jsbroker.Hooks{SubscriptionStart: func(ctx context.Context, e jsbroker.SubscriptionStart) context.Context { hook(ctx, e); return ctx }}))...)
			topic := "orders." + strings.ReplaceAll(name, " ", "_")
			h, got := collector()
			sub := subscribe(t, b, topic, h, broker.Queue(tt.queue))
			publish(t, b, topic, "x")
			receive(t, got)
			cfg := natstest.ConsumerInfo(t, js, "ORDERS", receive(t, starts).Consumer).Config
			if cfg.InactiveThreshold != tt.want.InactiveThreshold || cfg.MaxAckPending != tt.want.MaxAckPending {
				t.Errorf("threshold %v, ack pending %d", cfg.InactiveThreshold, cfg.MaxAckPending)
			}
			lines := log.AtLeast(logger.WarnLevel)
			if len(lines) != len(tt.warnings) {
				t.Errorf("warned: %v", lines)
			}
			for _, text := range tt.warnings {
				if len(log.With(text)) != 1 {
					t.Errorf("no warning with %q", text)
				}
			}
			_ = sub.Unsubscribe()
		})
	}
}
