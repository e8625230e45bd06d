package consumers_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/internal/natstest"
)

// undone is a replica whose first changes of the consumer q of ORDERS are undone by another
// process before the replica hears that the server has made them.
func (b *bench) undone(t *testing.T, times int, before jetstream.ConsumerConfig) *consumers.Consumers {
	t.Helper()
	p := natstest.StartProxyTo(t, b.url[len("nats://"):])
	p.Edit(func(answer []byte) []byte {
		if times > 0 && bytes.Contains(answer, []byte("consumer_create_response")) {
			times--
			if _, err := b.js.UpdateConsumer(context.Background(), "ORDERS", before); err != nil {
				t.Error(err)
			}
		}
		return answer
	})
	direct := b.url
	b.url = p.URL()
	defer func() { b.url = direct }()
	cs, _ := b.another(t)
	return cs
}

// Another process changes the configuration while snoozes are noted, and takes the note off.
func TestNoteOfSnoozesIsWrittenAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.bind(t, new(asset.Rules), "orders", "q")
	info, err := b.undone(t, 2, b.config(t, "ORDERS")).NoteSnoozes(b.ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Told(info).Noted() || b.config(t, "ORDERS").Metadata[consumers.SnoozesKey] == "" {
		t.Errorf("not noted: %v", info.Config.Metadata)
	}
}

// A note that is always taken off again is left to the next snooze.
func TestNoteOfSnoozesIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.bind(t, new(asset.Rules), "orders", "q")
	info, err := b.undone(t, 100, b.config(t, "ORDERS")).NoteSnoozes(b.ctx, c)
	if err != nil || c.Told(info).Noted() {
		t.Errorf("%v, %v", info, err)
	}
}

// Another process writes the old configuration back while a consumer follows its template.
func TestConsumerFollowsItsTemplateOnceMore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.bind(t, template(jetstream.ConsumerConfig{AckWait: 5 * time.Second}), "orders", "q")
	cs := b.undone(t, 2, b.config(t, "ORDERS"))
	c, info, err := cs.Bind(b.ctx, template(jetstream.ConsumerConfig{AckWait: 7 * time.Second}), "orders", "q")
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.AckWait != 7*time.Second || info.Config.AckWait != 7*time.Second || b.config(t, "ORDERS").AckWait != 7*time.Second {
		t.Errorf("the consumer has an AckWait of %v", b.config(t, "ORDERS").AckWait)
	}
}
