package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// choices are options by number, with an argument that may be anything.
var choices = []func(n int) broker.Option{
	func(n int) broker.Option { return nil },
	func(n int) broker.Option { return jsbroker.WithBatchSize(n) },
	func(n int) broker.Option { return jsbroker.WithFetchBytes(n * 16) },
	func(n int) broker.Option { return jsbroker.WithFetchWait(time.Duration(n) * time.Millisecond) },
	func(n int) broker.Option { return jsbroker.WithClientName(strings.Repeat("n", max(n, 0))) },
	func(n int) broker.Option { return jsbroker.WithNATSOptions(nil, nats.NoEcho(), nil) },
	func(n int) broker.Option { return jsbroker.WithStreamConfig(streamChoice(n)) },
	func(n int) broker.Option {
		return jsbroker.WithStreamName(func(topic string) string { return strings.Repeat("S", max(n, 0)) })
	},
	func(n int) broker.Option { return jsbroker.WithConsumerConfig(consumerChoice(n)) },
	func(n int) broker.Option { return jsbroker.WithExistingStreams() },
	func(n int) broker.Option { return jsbroker.WithExistingConsumers() },
	func(n int) broker.Option {
		return jsbroker.WithDeadLetter([]string{"graves", "fuzz.dead", "", "a.*", "$x"}[uint8(n)%5])
	},
	func(n int) broker.Option { return jsbroker.WithConcurrency(n) },
	func(n int) broker.Option { return jsbroker.WithAsyncWindow(n) },
	func(n int) broker.Option { return jsbroker.WithShutdownTimeout(time.Duration(n) * time.Second) },
	func(n int) broker.Option { return jsbroker.WithMaxAckExtension(time.Duration(n) * time.Second) },
	func(n int) broker.Option { return jsbroker.WithHooks(hookChoice(n), jsbroker.Hooks{}) },
	func(n int) broker.Option { return broker.Secure(false) },
	func(n int) broker.Option { return broker.TLSConfig(nil) },
	func(n int) broker.Option { return broker.Logger(nil) },
	func(n int) broker.Option { return broker.ErrorHandler(nil) },
	func(n int) broker.Option {
		return func(o *broker.Options) { o.Context = nilContext }
	},
}

func streamChoice(n int) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{Retention: jetstream.RetentionPolicy(uint8(n) % 3), Storage: jetstream.MemoryStorage}
	switch uint8(n) / 8 % 8 {
	case 1:
		cfg.Name, cfg.Subjects = "FUZZ_FIXED", []string{"fuzz.>"}
	case 2:
		cfg.Subjects = []string{"something.else"}
	case 3:
		cfg.NoAck = true
	case 4:
		cfg.MaxMsgSize = 8
	case 5:
		cfg.Duplicates, cfg.Discard, cfg.MaxMsgs = 100*time.Millisecond, jetstream.DiscardNew, 1
	case 6:
		cfg.Replicas = 3
	case 7:
		cfg.Name = "a.b"
	}
	return cfg
}

func consumerChoice(n int) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{AckPolicy: jetstream.AckPolicy(uint8(n) / 64 % 2), DeliverPolicy: jetstream.DeliverPolicy(uint8(n) % 3)}
	switch uint8(n) / 3 % 8 {
	case 1:
		cfg.AckWait = time.Duration(n) * time.Second
	case 2:
		cfg.AckWait = time.Duration(n) // who has forgotten the unit
	case 3:
		cfg.MaxDeliver, cfg.BackOff = n, []time.Duration{time.Second, 2 * time.Second}
	case 4:
		cfg.MaxAckPending = n
	case 5:
		cfg.BackOff = []time.Duration{time.Duration(n)}
	case 6:
		cfg.MaxRequestBatch, cfg.MaxDeliver = n, 1
	case 7:
		cfg.InactiveThreshold = time.Duration(n) * time.Second
	}
	return cfg
}

func hookChoice(n int) jsbroker.Hooks {
	switch uint8(n) % 4 {
	case 1:
		return jsbroker.Hooks{Err: errors.New("the constructor failed")}
	case 2:
		return jsbroker.Hooks{HandleStart: func(context.Context, jsbroker.HandleStart) context.Context { panic("a hook") }}
	case 3:
		return jsbroker.Hooks{PublishStart: func(context.Context, jsbroker.PublishStart) context.Context { return nilContext }}
	}
	return jsbroker.Hooks{}
}

// FuzzOptions puts options together: either one says what is wrong with them, or
// what is published arrives.
func FuzzOptions(f *testing.F) {
	s := startServer(f)
	_, js := natsConn(f, s)
	f.Add([]byte{}, "q")
	for i := range choices {
		for _, n := range []byte{0, 1, 5, 200} {
			f.Add([]byte{byte(i), n}, "q")
		}
	}
	for n := range byte(8) {
		f.Add([]byte{6, 8 * n, 8, 3 * n}, "q")
		f.Add([]byte{8, 3*n + 2, 6, 1, 12, 3}, "")
	}
	f.Add([]byte{9, 0, 10, 0, 11, 0}, "q")
	f.Add([]byte{6, 0, 9, 0}, "q")
	f.Add([]byte{8, 0, 10, 0}, "q")
	f.Add([]byte{1, 1, 2, 1, 3, 10, 13, 1, 14, 0, 15, 0, 16, 2}, "")
	var runs atomic.Int64
	f.Fuzz(func(t *testing.T, program []byte, queue string) {
		opts := []broker.Option{quiet(), broker.Addrs(s.ClientURL())}
		for i := 0; i+1 < len(program) && i < 20; i += 2 {
			opts = append(opts, choices[int(program[i])%len(choices)](int(int8(program[i+1]))))
		}
		b := jsbroker.NewBroker(opts...)
		if err := b.Connect(); err != nil {
			wantError(t, err, jsbroker.ErrInvalidConfig, "jetstream: ")
			return
		}
		defer func() {
			if err := b.Disconnect(); err != nil && !errors.Is(err, jsbroker.ErrShutdownTimeout) {
				t.Errorf("Disconnect: %v", err)
			}
			for name := range js.StreamNames(testContext(t)).Name() {
				_ = js.DeleteStream(testContext(t), name)
			}
		}()
		topic := fmt.Sprintf("fuzz.t%d", runs.Add(1))
		h, got := collector()
		_, subscribeErr := b.Subscribe(topic, h, broker.Queue(queue))
		publishErr := b.Publish(topic, message("a message"))
		for _, err := range []error{subscribeErr, publishErr} {
			if err != nil && (!strings.HasPrefix(err.Error(), "jetstream: ") || !strings.Contains(err.Error(), topic)) {
				t.Errorf("the error does not say what it is about: %v", err)
			}
		}
		if subscribeErr == nil && publishErr == nil {
			receive(t, got)
		}
	})
}
