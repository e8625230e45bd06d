package streams_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/internal/natstest"
)

func TestStreamIsCreatedAndThenKnown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if s := b.Known("orders"); s != nil {
		t.Fatalf("%s is known already", s.Name)
	}
	s, err := b.Stream(b.ctx, 0, new(asset.Rules), "orders.created")
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "ORDERS" || !slices.Equal(s.Subjects, []string{"orders", "orders.>"}) || s.Retention != jetstream.WorkQueuePolicy || !s.Ours || s.Duplicates == 0 || s.Created.IsZero() {
		t.Errorf("%+v", s)
	}
	if b.Known("orders") != s || b.Known("users") != nil {
		t.Error("another stream is known")
	}
	if lines := b.log.Take("created stream ORDERS for orders, orders.>"); len(lines) != 1 || !strings.Contains(lines[0], "topic=orders.created stream=ORDERS") {
		t.Errorf("logged %q", lines)
	}
	found, err := b.another(t).Stream(b.ctx, 0, new(asset.Rules), "orders")
	if err != nil || !found.Ours || !found.Created.Equal(s.Created) {
		t.Errorf("a replica finds %+v: %v", found, err)
	}
}

func TestStreamOfOthersIsFoundAndNotReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders.>")
	s, err := b.Stream(b.ctx, 0, new(asset.Rules), "orders.created")
	if err != nil || s.Name != "THEIRS" || s.Ours {
		t.Fatalf("%+v: %v", s, err)
	}
	b.deleteStream(t, "THEIRS")
	b.Doubt(s, "users") // another stream's topic
	if b.Known("orders.created") != s {
		t.Fatal("forgotten for no reason")
	}
	b.Doubt(s, "orders.created")
	if b.Known("orders.created") != nil {
		t.Fatal("still known")
	}
	_, err = b.Stream(b.ctx, 0, new(asset.Rules), "orders.created")
	natstest.WantError(t, err, fault.ErrStreamNotFound, "stream THEIRS is gone and was not made by this broker: create it again")
}

func TestStreamsThatOverlapAreNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders.created")
	b.makeStream(t, "USERS", "people")
	_, err := b.Stream(b.ctx, 0, new(asset.Rules), "orders.paid")
	natstest.WantError(t, err, fault.ErrStreamMismatch, "stream ORDERS for orders, orders.> would overlap with stream THEIRS; add the topic")
	_, err = b.Stream(b.ctx, 0, new(asset.Rules), "users")
	natstest.WantError(t, err, fault.ErrStreamMismatch, "would be named USERS, but a stream of that name exists and captures people")
	_, err = b.ForConsumer(b.ctx, new(asset.Rules), "orders.*")
	natstest.WantError(t, err, fault.ErrStreamMismatch, "stream THEIRS captures a part of it only")
	_, err = b.Stream(b.ctx, 0, &asset.Rules{StreamName: func(string) string { return "a.b" }}, "x")
	natstest.WantError(t, err, fault.ErrInvalidTopic, `would be named "a.b"`, "WithStreamName")
	_, err = b.Stream(b.ctx, 0, &asset.Rules{StreamTemplate: &jetstream.StreamConfig{Subjects: []string{"*.>"}}}, "x.y")
	natstest.WantError(t, err, fault.ErrInvalidTopic, "the client's own inboxes, _INBOX.>")
}

func TestStreamsAreLeftToOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Stream(b.ctx, 0, &asset.Rules{NeverCreateStreams: true}, "orders.paid")
	natstest.WantError(t, err, fault.ErrStreamNotFound, "with WithExistingStreams the broker creates none", "ORDERS with the subjects orders and orders.>")
	_, err = b.ForConsumer(b.ctx, &asset.Rules{NeverCreateConsumers: true}, "orders.paid")
	natstest.WantError(t, err, fault.ErrStreamNotFound, "with WithExistingConsumers the broker creates none")
}

func TestManyLookForOneStream(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	found := make([]*asset.Stream, 20)
	var all sync.WaitGroup
	for i := range found {
		all.Go(func() {
			var err error
			if found[i], err = b.Stream(b.ctx, 0, new(asset.Rules), "orders"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, s := range found {
		if s != found[0] {
			t.Fatal("it was looked up several times")
		}
	}
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	if _, err := b.Stream(ended, 0, new(asset.Rules), "users"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
