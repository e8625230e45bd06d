package consumers

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/backoff"
	"go-micro-jetstream/broker/internal/wire"
)

// Consumer is what is known of a consumer that a subscription is bound to. It
// must not be changed and is safe for concurrent use.
type Consumer struct {
	Name      string
	Stream    *asset.Stream
	Ephemeral bool                     // of a subscriber without a queue; it ends with that
	Ours      bool                     // made by this module
	Created   time.Time                // tells it from another consumer of the same name
	Config    jetstream.ConsumerConfig // as the server has it
	Floor     uint64                   // the stream sequence up to which all was settled when the server said so

	PausedUntil time.Time // when it delivers again; zero: it is not paused

	// Limit is after how many deliveries a message is given up; 0 is never. With
	// ByServer, the server counts and just stops delivering. Otherwise this module
	// counts, for the dead letters. It uses the limit that the code asks for, or else
	// that in the consumer's metadata.
	Limit    uint64
	ByServer bool
	asked    uint64 // the limit that the code asks for and this module counts; 0: none

	// Snoozes is whether handlers have snoozed messages. Then the number of deliveries
	// does not say how many have failed. All subscribers know it from the consumer's
	// metadata, if Notes says that this module may write there.
	Snoozes bool
	Notes   bool
}

func consumerOf(info *jetstream.ConsumerInfo, b binding) *Consumer {
	_, ours := info.Config.Metadata[asset.OwnerKey]
	c := Consumer{
		Name:      info.Name,
		Stream:    b.stream,
		Ephemeral: info.Config.Durable == "",
		Ours:      ours,
		Created:   info.Created,
		asked:     askedLimit(b.rules, b.topic),
		Notes:     ours && info.Config.Durable != "" && !b.rules.NeverCreateConsumers,
	}
	return c.Told(info)
}

// Told returns a copy of the consumer with what the server has said since.
func (c *Consumer) Told(info *jetstream.ConsumerInfo) *Consumer {
	told := *c
	told.Config, told.Floor = info.Config, info.AckFloor.Stream
	told.PausedUntil = time.Time{}
	if info.Paused && info.Config.PauseUntil != nil {
		told.PausedUntil = *info.Config.PauseUntil
	}
	told.Snoozes = c.Snoozes || noted(info.Config)
	told.ByServer = info.Config.MaxDeliver > 0
	switch {
	case told.ByServer:
		told.Limit = uint64(info.Config.MaxDeliver)
	case told.asked > 0:
		told.Limit = told.asked
	default:
		told.Limit, _ = wire.ParseUint(info.Config.Metadata[limitKey])
	}
	return &told
}

// IsLast reports whether the server never delivers a message again after its n-th
// delivery.
func (c *Consumer) IsLast(n uint64) bool {
	return c.ByServer && n >= c.Limit
}

// GoesOn reports whether the consumer has to begin where it was when it is made
// again. That is so if it began with new messages, with the last ones, or at a
// sequence because it was made again before: created as it was, it would now miss
// some. A consumer that began with the first message or at a time begins there
// again, and misses nothing.
func (c *Consumer) GoesOn() bool {
	switch c.Config.DeliverPolicy {
	case jetstream.DeliverNewPolicy, jetstream.DeliverByStartSequencePolicy, jetstream.DeliverLastPolicy, jetstream.DeliverLastPerSubjectPolicy:
		return true
	}
	return false
}

// Replays reports whether all messages are to be handled again when the consumer
// is made again. A stream with Limits retention keeps what was acked, and to
// replay it may be why somebody deleted the consumer. Elsewhere an acked message
// is only delivered again by mistake.
func (c *Consumer) Replays() bool {
	return c.Stream.Retention == jetstream.LimitsPolicy && !c.GoesOn()
}

// AckWait returns the shortest time after which the server may deliver an
// unsettled message again, but at least MinAckWait: nobody could extend a shorter
// deadline in time.
func (c *Consumer) AckWait() time.Duration {
	wait := c.Config.AckWait
	if wait <= 0 {
		wait = DefaultAckWait
	}
	for _, d := range c.Config.BackOff { // each entry replaces AckWait for one delivery
		if d > 0 {
			wait = min(wait, d)
		}
	}
	return max(wait, MinAckWait)
}

// Expired reports whether the ack deadline of a message's n-th delivery has
// passed once the server has waited that long. A deadline of 0 or less counts as
// none: otherwise every delivery would pass for expired, and none were handled.
func (c *Consumer) Expired(n uint64, waited time.Duration) bool {
	deadline := c.Config.AckWait
	if len(c.Config.BackOff) > 0 {
		deadline = backoff.Entry(n, c.Config.BackOff)
	}
	return deadline > 0 && waited > deadline
}

// NakBody returns the body of a nak that makes the server deliver a message again
// after the delay, or at once if the delay is 0 or less. n is the number of the
// delivery that failed.
//
// With BackOff the server does not count the delay from now (processNak and
// checkPending in server/consumer.go of nats-server 2.7.1, which brought BackOff,
// to 2.15.2). It pretends that the message was delivered one AckWait before the
// delay's end. Then it waits until BackOff's entry for this delivery has passed.
// AckWait is BackOff's first entry, so with a longer entry the message would come
// too late by the difference. NakBody subtracts the difference. The result may be
// 0 or less. That is not the same as a nak without a delay, for which the server
// does not wait at all.
func (c *Consumer) NakBody(n uint64, delay time.Duration) []byte {
	if delay <= 0 {
		return wire.NakBody
	}
	if len(c.Config.BackOff) > 0 {
		delay -= backoff.Entry(n, c.Config.BackOff) - c.Config.AckWait
	}
	return wire.DelayedNak(delay)
}

// Group returns the priority group of a consumer that serves one subscriber at a time.
// Of others it is empty.
func (c *Consumer) Group() string {
	if c.Config.PriorityPolicy != jetstream.PriorityPolicyPinned || len(c.Config.PriorityGroups) == 0 {
		return ""
	}
	return c.Config.PriorityGroups[0]
}

// Pinned returns the pin of the subscriber that the consumer serves. It is empty if there
// is none.
func (c *Consumer) Pinned(info *jetstream.ConsumerInfo) string {
	for _, g := range info.PriorityGroups {
		if g.Group == c.Group() {
			return g.PinnedClientID
		}
	}
	return ""
}

// Next returns the name of the request for the consumer's next messages, without the
// prefix of the API.
func (c *Consumer) Next() string {
	return "CONSUMER.MSG.NEXT." + c.Stream.Name + "." + c.Name
}
