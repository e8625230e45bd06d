package consumers

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/streams"
)

// filterSubjects returns what a consumer receives, which is ">" without a filter.
func filterSubjects(cc jetstream.ConsumerConfig) []string {
	switch {
	case len(cc.FilterSubjects) > 0:
		return cc.FilterSubjects
	case cc.FilterSubject != "":
		return []string{cc.FilterSubject}
	}
	return []string{">"}
}

func describeFilter(cc jetstream.ConsumerConfig) string {
	return strings.Join(filterSubjects(cc), ", ")
}

// filters reports whether a consumer receives the topic and nothing else.
func filters(cc jetstream.ConsumerConfig, s *streams.Stream, topic string) bool {
	f := filterSubjects(cc)
	if len(f) != 1 {
		return false
	}
	return f[0] == topic || f[0] == ">" && len(s.Subjects) == 1 && s.Subjects[0] == topic
}

// usable reports why the broker cannot work with an existing consumer of a topic.
func usable(info *jetstream.ConsumerInfo, rules *streams.Rules, topic string) error {
	switch {
	case info.Config.AckPolicy != jetstream.AckExplicitPolicy:
		return fmt.Errorf("%w: consumer %s of stream %s has ack policy %s; the broker settles each message and needs explicit",
			fault.ErrConsumerConflict, info.Name, info.Stream, info.Config.AckPolicy)
	case len(info.Config.PriorityGroups) > 0:
		return fmt.Errorf("%w: consumer %s of stream %s has priority groups, which the broker does not support", fault.ErrConsumerConflict, info.Name, info.Stream)
	case info.Config.HeadersOnly && rules.DeadLetter != "" && rules.DeadLetter != topic: // what fails on the topic of dead letters becomes none
		return fmt.Errorf("%w: consumer %s of stream %s delivers headers only, and WithDeadLetter keeps the bodies of messages: leave it out, or take another queue", fault.ErrConsumerConflict, info.Name, info.Stream)
	}
	return nil
}

// reportDifferences logs where an existing consumer differs from what the
// subscriber asks for. The settings belong to whoever made the consumer: to change
// them at each start would undo an operator's tuning.
func (cs *Consumers) reportDifferences(b binding, c *Consumer) {
	diffs := differences(b.rules, c)
	if len(diffs) == 0 {
		return
	}
	cs.conn.Log().Warn(fmt.Sprintf("consumer %s of stream %s exists and is used as it is: %s", c.Name, c.Stream.Name, strings.Join(diffs, "; ")),
		"topic", b.topic, "queue", b.queue, "stream", c.Stream.Name, "consumer", c.Name)
}

// differences lists what of the consumer template an existing consumer does not
// have.
func differences(rules *streams.Rules, c *Consumer) []string {
	var want jetstream.ConsumerConfig // asks for nothing
	if rules.ConsumerTemplate != nil {
		want = *rules.ConsumerTemplate
	}
	have := c.Config
	var diffs []string
	differ := func(name string, asked bool, w, h any) {
		if asked && fmt.Sprint(w) != fmt.Sprint(h) {
			diffs = append(diffs, fmt.Sprintf("%s is %v, not %v", name, h, w))
		}
	}
	differ("AckWait", want.AckWait != 0 && len(want.BackOff) == 0, want.AckWait, have.AckWait)
	differ("MaxDeliver", want.MaxDeliver > 0, want.MaxDeliver, c.Limit)
	if c.Limit > 0 && !c.ByServer && rules.DeadLetter == "" {
		// Nothing happens when such a message reaches the limit: it comes again.
		diffs = append(diffs, fmt.Sprintf("the broker counts its limit of %d deliveries, but only with WithDeadLetter, so what fails is delivered again for ever: set that, or the consumer's max_deliver (nats consumer edit)", c.Limit))
	}
	differ("MaxAckPending", want.MaxAckPending != 0, want.MaxAckPending, have.MaxAckPending)
	differ("BackOff", len(want.BackOff) != 0, want.BackOff, have.BackOff)
	differ("DeliverPolicy", want.DeliverPolicy != jetstream.DeliverAllPolicy, want.DeliverPolicy, have.DeliverPolicy)
	return diffs
}
