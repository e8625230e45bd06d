package consumers

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// defaultMaxAckPending is what the server chooses for consumers
	// (JsDefaultMaxAckPending in server/consumer.go of nats-server).
	defaultMaxAckPending = 1000
	// defaultPinnedTTL likewise (JsDefaultPinnedTTL).
	defaultPinnedTTL = 2 * time.Minute
	// defaultMaxWaiting likewise (JSWaitQueueDefaultMax).
	defaultMaxWaiting = 512
)

// settingsOn says what of a stream's consumers may follow the code. What is missing
// is the same for all consumers of this module (AckPolicy, ReplayPolicy, and what is
// for push consumers), passes by itself (PauseUntil), or has rules of its own (names,
// filters, Metadata).
func settingsOn(s *asset.Stream) *asked.Kind[jetstream.ConsumerConfig] {
	limits := s.Limits
	return &asked.Kind[jetstream.ConsumerConfig]{
		Fields: []string{
			"Description", "DeliverPolicy", "OptStartSeq", "OptStartTime", "AckWait", "MaxDeliver", "BackOff",
			"SampleFrequency", "MaxWaiting", "MaxAckPending", "HeadersOnly", "MaxRequestBatch", "MaxRequestExpires",
			"MaxRequestMaxBytes", "InactiveThreshold", "Replicas", "MemoryStorage",
			"PriorityPolicy", "PriorityGroups", "PinnedTTL",
		},
		Fixed: fixed,
		Fill:  func(cc *jetstream.ConsumerConfig) { fill(cc, limits) },
	}
}

// fixed knows what the server refuses to change (checkNewConsumerConfig in
// server/consumer.go of nats-server).
func fixed(field string, _, _ *jetstream.ConsumerConfig) bool {
	switch field {
	case "DeliverPolicy", "OptStartSeq", "OptStartTime", "MaxWaiting", "MemoryStorage":
		return true
	}
	return false
}

// fill fills in what the server chooses (setConsumerConfigDefaults in
// server/consumer.go of nats-server), and keeps to the limits of the stream.
func fill(cc *jetstream.ConsumerConfig, limits jetstream.StreamConsumerLimits) {
	if cc.MaxDeliver <= 0 {
		cc.MaxDeliver = -1
	}
	if cc.MaxWaiting <= 0 {
		cc.MaxWaiting = defaultMaxWaiting
	}
	switch {
	case len(cc.BackOff) > 0:
		cc.AckWait = cc.BackOff[0]
	case cc.AckWait == 0:
		cc.AckWait = DefaultAckWait
	}
	if limit := limits.MaxAckPending; limit > 0 && (cc.MaxAckPending <= 0 || cc.MaxAckPending > limit) {
		cc.MaxAckPending = limit
	}
	if cc.MaxAckPending == 0 {
		cc.MaxAckPending = defaultMaxAckPending
	}
	if limit := limits.InactiveThreshold; cc.InactiveThreshold <= 0 || limit > 0 && cc.InactiveThreshold > limit {
		cc.InactiveThreshold = limit
	}
	if cc.PriorityPolicy == jetstream.PriorityPolicyPinned && cc.PinnedTTL == 0 {
		cc.PinnedTTL = defaultPinnedTTL
	}
	if cc.OptStartTime != nil {
		utc := cc.OptStartTime.Round(0).UTC()
		cc.OptStartTime = &utc
	}
}

// asks returns the configuration that the code asks for. Unlike ConsumerConfig it
// leaves to the server what the code does not name.
func (b binding) asks() jetstream.ConsumerConfig {
	cc := ConsumerConfig(b.rules, b.topic)
	if t := b.rules.ConsumerTemplate; t == nil || t.AckWait == 0 {
		cc.AckWait = 0
	}
	return cc
}

// durableConfig configures a queue's new consumer. It remembers what was asked for.
func (b binding) durableConfig() jetstream.ConsumerConfig {
	cc := ConsumerConfig(b.rules, b.topic)
	cc.Metadata[asset.AskedKey] = settingsOn(b.stream).RecordOf(b.asks()).String()
	return cc
}

// askedLimit returns after how many deliveries this module gives a message up as a
// dead letter, by what the code asks for; 0 is never. Where the server counts, it
// is 0, too.
func askedLimit(r *asset.Rules, topic string) uint64 {
	if t := r.ConsumerTemplate; r.DeadLetter != "" && t != nil && t.MaxDeliver > 0 && !wire.Covers(topic, r.DeadLetter) {
		return uint64(t.MaxDeliver)
	}
	return 0
}

// limitText describes a limit of deliveries for the log: that of the server, or
// else that of the metadata, which this module counts.
func limitText(maxDeliver int, metadata string) string {
	switch {
	case maxDeliver > 0:
		return strconv.Itoa(maxDeliver)
	case metadata != "":
		return metadata + " (counted by the broker)"
	}
	return "unlimited"
}

// describeLimit makes the plan say both kinds of limits, and has it change the one
// in the metadata.
func describeLimit(p *asked.Plan[jetstream.ConsumerConfig], want, have jetstream.ConsumerConfig) {
	change := asked.Change{
		Field: "MaxDeliver",
		Old:   limitText(have.MaxDeliver, have.Metadata[limitKey]),
		New:   limitText(want.MaxDeliver, want.Metadata[limitKey]),
	}
	told := false
	for _, changes := range [][]asked.Change{p.Apply, p.Kept} {
		for i := range changes {
			if changes[i].Field == change.Field {
				changes[i], told = change, true
			}
		}
	}
	limit, limited := want.Metadata[limitKey]
	if limit == have.Metadata[limitKey] {
		return
	}
	if limited {
		p.Config.Metadata[limitKey] = limit
	} else {
		delete(p.Config.Metadata, limitKey)
	}
	if !told {
		p.Apply = append(p.Apply, change)
	}
}

// pausedUntil describes for the log when a consumer that is paused goes on.
func pausedUntil(t time.Time) string {
	return fmt.Sprintf("%s (in %v)", t.UTC().Format(time.RFC3339), time.Until(t).Round(time.Second))
}
