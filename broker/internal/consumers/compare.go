package consumers

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
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
func filters(cc jetstream.ConsumerConfig, s *asset.Stream, topic string) bool {
	f := filterSubjects(cc)
	if len(f) != 1 {
		return false
	}
	return f[0] == topic || f[0] == ">" && len(s.Subjects) == 1 && s.Subjects[0] == topic
}

// usable reports why the broker cannot work with an existing consumer.
func usable(info *jetstream.ConsumerInfo) error {
	if info.Config.AckPolicy != jetstream.AckExplicitPolicy {
		return fmt.Errorf("%w: consumer %s of stream %s has ack policy %s; the broker settles each message and needs explicit",
			fault.ErrConsumerConflict, info.Name, info.Stream, info.Config.AckPolicy)
	}
	return nil
}

// Serves returns ErrConsumerConflict if the consumer no longer chooses among its
// subscribers as the code asks.
func Serves(info *jetstream.ConsumerInfo, rules *asset.Rules) error { return serves(info, rules) }

// serves reports why a consumer does not choose among its subscribers as the code asks.
func serves(info *jetstream.ConsumerInfo, rules *asset.Rules) error {
	grouped := len(info.Config.PriorityGroups) > 0
	switch pinned := grouped && info.Config.PriorityPolicy == jetstream.PriorityPolicyPinned; {
	case rules.SingleActive && !pinned:
		return fmt.Errorf("%w: consumer %s of stream %s serves all its subscribers, and SingleActive wants one at a time: give it the priority policy pinned_client and a priority group, or take another queue",
			fault.ErrConsumerConflict, info.Name, info.Stream)
	case pinned && !rules.SingleActive:
		return fmt.Errorf("%w: consumer %s of stream %s has priority groups and serves one subscriber at a time: subscribe with SingleActive, or take another queue",
			fault.ErrConsumerConflict, info.Name, info.Stream)
	case grouped && !pinned:
		return fmt.Errorf("%w: consumer %s of stream %s has priority groups with the policy %s, which the broker does not support",
			fault.ErrConsumerConflict, info.Name, info.Stream, policyName(info.Config.PriorityPolicy))
	}
	return nil
}

// policyName returns what the server calls a priority policy.
func policyName(p jetstream.PriorityPolicy) string {
	text, _ := p.MarshalJSON()
	return strings.Trim(string(text), `"`)
}

// reportDifferences logs where a consumer differs from what the subscriber asks for.
// The settings of others' consumers belong to whoever made them.
func (cs *Consumers) reportDifferences(b binding, c *Consumer) {
	diffs := differences(b, c)
	if len(diffs) == 0 {
		return
	}
	cs.warn(b, c.Name, "exists and is used as it is: "+strings.Join(diffs, "; "))
}

// differences lists what of the consumer template an existing consumer does not
// have.
func differences(b binding, c *Consumer) []string {
	var diffs []string
	if b.rules.ConsumerTemplate != nil {
		for _, d := range settingsOn(c.Stream).Differences(*b.rules.ConsumerTemplate, c.Config) {
			if d.Field == "MaxDeliver" {
				continue
			}
			diffs = append(diffs, asked.AreNot([]asked.Change{d}))
		}
		if want := b.rules.ConsumerTemplate.MaxDeliver; want > 0 && uint64(want) != c.Limit {
			diffs = append(diffs, fmt.Sprintf("MaxDeliver is %s, not %d", limitText(c.Config.MaxDeliver, c.Config.Metadata[limitKey]), want))
		}
	}
	if c.Limit > 0 && !c.ByServer && b.rules.DeadLetter == "" {
		// Nothing happens when such a message reaches the limit: it comes again.
		diffs = append(diffs, fmt.Sprintf("the broker counts its limit of %d deliveries, but only with WithDeadLetter, so what fails is delivered again for ever: set that, or the consumer's max_deliver (nats consumer edit)", c.Limit))
	}
	return diffs
}
