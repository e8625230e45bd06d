package natstest

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// MakeStream creates a stream as a user would, beside the broker.
func MakeStream(t testing.TB, js jetstream.JetStream, cfg jetstream.StreamConfig) *jetstream.StreamInfo {
	t.Helper()
	st, err := js.CreateStream(Context(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo()
}

// UpdateStream changes a stream as its owner would.
func UpdateStream(t testing.TB, js jetstream.JetStream, cfg jetstream.StreamConfig) {
	t.Helper()
	if _, err := js.UpdateStream(Context(t), cfg); err != nil {
		t.Fatal(err)
	}
}

// StreamInfo returns what the server knows of a stream.
func StreamInfo(t testing.TB, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	info, err := stream(t, js, name).Info(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// LastMessage returns what a stream has stored last for a subject.
func LastMessage(t testing.TB, js jetstream.JetStream, name, subject string) *jetstream.RawStreamMsg {
	t.Helper()
	m, err := stream(t, js, name).GetLastMsgForSubject(Context(t), subject)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// MakeConsumer creates a consumer as a user would, beside the broker: a push
// consumer if the configuration has a subject to deliver to.
func MakeConsumer(t testing.TB, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) {
	t.Helper()
	var err error
	if cfg.DeliverSubject != "" {
		_, err = js.CreatePushConsumer(Context(t), stream, cfg)
	} else {
		_, err = js.CreateConsumer(Context(t), stream, cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ConsumerInfo returns what the server knows of a consumer.
func ConsumerInfo(t testing.TB, js jetstream.JetStream, stream, name string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(Context(t), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// ConsumerNames returns the names of a stream's consumers, sorted.
func ConsumerNames(t testing.TB, js jetstream.JetStream, name string) (names []string) {
	t.Helper()
	list := stream(t, js, name).ConsumerNames(Context(t))
	for consumer := range list.Name() {
		names = append(names, consumer)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func stream(t testing.TB, js jetstream.JetStream, name string) jetstream.Stream {
	t.Helper()
	st, err := js.Stream(Context(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}
