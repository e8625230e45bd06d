package hand

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/broker/internal/delivery"
	"go-micro-jetstream/broker/internal/hanging"
	"go-micro-jetstream/broker/internal/ledger"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/pinned"
	"go-micro-jetstream/broker/internal/queue"
)

// Config is what a hand is made of.
type Config struct {
	Conn            *link.Conn
	Topic           string        // may have wildcards
	Workers         int           // that handle messages
	Ordered         bool          // messages of one key are handled one after the other
	Single          bool          // the consumer serves one subscriber at a time
	MaxAckExtension time.Duration // how long after its arrival a message's ack deadline is extended
	HangsAfter      time.Duration // see [hanging.NewPace]
	Observer        Observer
	Base            context.Context // ends when nobody waits for handlers any more
	Life            context.Context // ends when nothing is started any more
	KeepAlive       func()          // see BeginExtending; called on a goroutine of its own
}

// Observer is told what is sent to the server.
type Observer interface {
	// Settled tells of an acknowledgement that was sent, or could not be sent, which
	// err says. A message that was returned has not been handled.
	Settled(d *Delivery, r delivery.Result, delay time.Duration, returned bool, err error)
}

// New returns an empty hand for the messages of a consumer. Open, or Discard of the
// subscription, follows.
func New(cfg Config, cs *consumers.Consumer, info *jetstream.ConsumerInfo) *Hand {
	h := &Hand{
		cfg:     cfg,
		running: make([]*Delivery, cfg.Workers),
		left:    left{at: time.Now(), pending: info.NumPending, fresh: time.Now()}, // nobody asks before it has begun
		pace:    hanging.NewPace(cfg.HangsAfter),
		ledger:  ledger.New(info.AckFloor.Stream), // where a consumer for new messages begins
		queue:   queue.New[*Delivery](cfg.Ordered),
	}
	if cfg.Ordered {
		h.crowding.room = make(chan struct{}, 1)
	}
	if cfg.Single {
		h.pin = &pinned.Client{}
	}
	h.consumer.Store(cs)
	return h
}
