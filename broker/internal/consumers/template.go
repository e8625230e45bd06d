package consumers

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/backoff"
)

const (
	// DefaultAckWait is the AckWait of consumers whose template names none.
	DefaultAckWait = 30 * time.Second
	// MinAckWait is the shortest AckWait that a template may have. Whoever asks
	// for less has forgotten the unit.
	MinAckWait = 10 * time.Millisecond
	// InactiveThreshold is after how long without a pull request the server
	// removes the consumer of a subscriber without a queue that has crashed. It is
	// longer than the longest pause between two fetches. It is short because on a
	// WorkQueue stream the consumer is in the way of the next one until then.
	InactiveThreshold = 2 * backoff.Max
	// SpareDeliveries is how often a message may be delivered beyond the limit
	// that the broker counts itself. A delivery is also lost when a message is
	// given back on a restart, or when the process dies. That must not use up the
	// handler's chances.
	SpareDeliveries = 10
)

const (
	// PinnedTTL is after how long without a word from the active subscriber the server
	// takes another one. A client that reconnects, which takes it 2 s or a little more
	// by default, keeps its place.
	PinnedTTL = 5 * time.Second
	// activeGroup is the priority group of consumers with a single active subscriber.
	activeGroup = "active"
)

// limitKey holds, in a consumer's metadata, after how many deliveries a message
// becomes a dead letter.
const limitKey = asset.OwnerKey + "-max-deliver"

// SnoozesKey says, in a consumer's metadata, that handlers have snoozed messages of it.
const SnoozesKey = asset.OwnerKey + "-snoozes"

// CheckConsumerTemplate reports why consumers cannot be created from a template.
// The error names the field, not the option.
func CheckConsumerTemplate(cfg jetstream.ConsumerConfig) error {
	switch {
	case cfg.Name != "" || cfg.Durable != "":
		return fmt.Errorf("the fields Name and Durable come from broker.Queue")
	case cfg.FilterSubject != "" || len(cfg.FilterSubjects) > 0:
		return fmt.Errorf("the filter comes from the topic")
	case cfg.AckPolicy != jetstream.AckExplicitPolicy:
		return fmt.Errorf("AckPolicy must be explicit: the broker settles each message")
	case cfg.DeliverSubject != "" || cfg.DeliverGroup != "":
		return fmt.Errorf("the broker uses pull consumers; leave DeliverSubject and DeliverGroup empty")
	case len(cfg.PriorityGroups) > 0:
		return fmt.Errorf("priority groups are not supported, except by the option SingleActive")
	case cfg.ReplayPolicy != jetstream.ReplayInstantPolicy:
		// A server that waits for the time of a message sends no heartbeats.
		return fmt.Errorf("ReplayPolicy must be instant: a server that replays slowly cannot be told from one that has died")
	}
	return checkDeadlines(cfg)
}

// checkDeadlines is the part of CheckConsumerTemplate about redeliveries.
func checkDeadlines(cfg jetstream.ConsumerConfig) error {
	switch {
	case cfg.MaxDeliver < -1: // the server takes it for -1
		return fmt.Errorf("MaxDeliver is %d, want at least 1, or 0 or -1 for no limit", cfg.MaxDeliver)
	case cfg.MaxAckPending < -1: // likewise
		return fmt.Errorf("MaxAckPending is %d, want at least 1, -1 for no limit, or 0 for the default", cfg.MaxAckPending)
	case cfg.InactiveThreshold < 0:
		return fmt.Errorf("InactiveThreshold is %v, want a positive duration, or 0 for the default", cfg.InactiveThreshold)
	case cfg.MaxDeliver > 0 && len(cfg.BackOff) > cfg.MaxDeliver:
		return fmt.Errorf("BackOff has %d entries, MaxDeliver is %d: the server wants no more entries than deliveries", len(cfg.BackOff), cfg.MaxDeliver)
	case cfg.AckWait != 0 && cfg.AckWait < MinAckWait:
		return fmt.Errorf("AckWait is %v, want at least %v: no handler could be in time", cfg.AckWait, MinAckWait)
	case slices.ContainsFunc(cfg.BackOff, func(d time.Duration) bool { return d < MinAckWait }):
		return fmt.Errorf("BackOff is %v, want at least %v each: they replace AckWait, and no handler could be in time", cfg.BackOff, MinAckWait)
	}
	return nil
}

// ConsumerConfig fills in the consumer template for a topic. The name is left
// empty.
//
// With dead letters the broker counts the deliveries itself, and the server is
// told of no limit: it would merely stop delivering.
func ConsumerConfig(r *asset.Rules, topic string) jetstream.ConsumerConfig {
	var cc jetstream.ConsumerConfig
	if r.ConsumerTemplate != nil {
		cc = *r.ConsumerTemplate
	}
	cc.AckPolicy = jetstream.AckExplicitPolicy
	if cc.AckWait == 0 && len(cc.BackOff) == 0 { // with BackOff the server derives it
		cc.AckWait = DefaultAckWait
	}
	if r.SingleActive {
		cc.PriorityPolicy, cc.PriorityGroups, cc.PinnedTTL = jetstream.PriorityPolicyPinned, []string{activeGroup}, PinnedTTL
	}
	cc.FilterSubject = topic
	cc.Metadata = asset.Owned(cc.Metadata)
	if limit := askedLimit(r, topic); limit > 0 {
		cc.Metadata[limitKey] = strconv.FormatUint(limit, 10)
		cc.MaxDeliver = -1
	}
	return cc
}
