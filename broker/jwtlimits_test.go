package broker_test

import (
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
)

// The limits of an account or a user that an operator has signed are named as those of a
// server's configuration are.
func TestLimitsOfSignedAccountsAreNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		account func(*jwt.AccountClaims)
		user    func(*jwt.UserClaims)
		stream  jetstream.StreamConfig
		provoke func(b broker.Broker) error
		want    error
		parts   []string
	}{
		"streams": {
			account: func(c *jwt.AccountClaims) { c.Limits.Streams = 1 },
			provoke: func(b broker.Broker) error { return b.Publish("second", message("x")) },
			want:    jsbroker.ErrStreamLimit, parts: []string{"1 of 1", "max_streams"},
		},
		"consumers": {
			account: func(c *jwt.AccountClaims) { c.Limits.Consumer = 1 },
			provoke: func(b broker.Broker) error {
				if _, err := b.Subscribe("first.a", ignore, broker.Queue("q")); err != nil {
					return err
				}
				_, err := b.Subscribe("first.b", ignore, broker.Queue("q"))
				return err
			},
			want: jsbroker.ErrConsumerLimit, parts: []string{"FIRST", "max_consumers is 1"},
		},
		"storage reserved": {
			account: func(c *jwt.AccountClaims) { c.Limits.DiskStorage = 10_000 },
			stream:  jetstream.StreamConfig{MaxBytes: 8000},
			provoke: func(b broker.Broker) error { return b.Publish("second", message("x")) },
			want:    jsbroker.ErrStreamLimit, parts: []string{"of 10000 of storage", "MaxBytes of the stream is 8000"},
		},
		"storage used": {
			account: func(c *jwt.AccountClaims) { c.Limits.DiskStorage = 10_000 },
			provoke: func(b broker.Broker) error { return b.Publish("first", message(strings.Repeat("x", 20_000))) },
			want:    jsbroker.ErrStreamFull, parts: []string{"FIRST"},
		},
		"subscriptions of the account": {
			account: func(c *jwt.AccountClaims) { c.Limits.Subs = 2 },
			provoke: subscribeTwice, want: jsbroker.ErrSubscriptionLimit, parts: []string{"no more than", "subs of the account or user"},
		},
		"subscriptions of the user": {
			user:    func(c *jwt.UserClaims) { c.Subs = 2 },
			provoke: subscribeTwice, want: jsbroker.ErrSubscriptionLimit, parts: []string{"no more than 2", "subs of the account or user"},
		},
		"payload": {
			user:    func(c *jwt.UserClaims) { c.NatsLimits.Payload = 1000 },
			provoke: func(b broker.Broker) error { return b.Publish("first", message(strings.Repeat("x", 2000))) },
			want:    jsbroker.ErrMessageTooLarge, parts: []string{"accepts 1000"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			account, user := func(*jwt.AccountClaims) {}, func(*jwt.UserClaims) {}
			if tt.account != nil {
				account = tt.account
			}
			if tt.user != nil {
				user = tt.user
			}
			d := newDecentralised(t, account)
			file, _ := d.credentials(t, d.account, user)
			b := newBroker(t, d.server, jsbroker.WithNATSOptions(nats.UserCredentials(file)), jsbroker.WithStreamConfig(tt.stream))
			publish(t, b, "first", "x")
			wantError(t, tt.provoke(b), tt.want, tt.parts...)
			publish(t, b, "first", "y") // all else works
		})
	}
}

func subscribeTwice(b broker.Broker) error {
	if _, err := b.Subscribe("first.a", ignore, broker.Queue("q")); err != nil {
		return err
	}
	_, err := b.Subscribe("first.b", ignore, broker.Queue("q"))
	return err
}
