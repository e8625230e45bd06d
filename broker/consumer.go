package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go-micro.dev/v5/logger"
)

// inactiveThreshold is after how long without a pull the server removes the
// consumer of a queue-less subscriber that crashed: above the longest backoff,
// and short, because until then it blocks the next one on a WorkQueue stream.
const inactiveThreshold = 2 * maxBackoff

// consumer is what the broker knows of a consumer that it is bound to.
type consumer struct {
	name      string
	stream    *stream
	ephemeral bool
	ours      bool
	created   time.Time                // tells it from another of the same name
	cfg       jetstream.ConsumerConfig // as the server has it
	floor     uint64                   // the stream sequence up to which all was settled when it told that

	// After so many deliveries a message is given up, 0 for never, and who counts
	// them. The server just stops delivering, so where there are dead letters this
	// broker counts.
	limit    uint64
	byServer bool
}

// limitKey holds, in the metadata of a consumer, how many deliveries a message
// may have before it becomes a dead letter.
const limitKey = ownerKey + "-max-deliver"

// spareDeliveries is how often a message may be delivered beyond that limit.
// Deliveries also go by when a message is given back on a restart, or when the
// process dies; these must not use up the handler's chances.
const spareDeliveries = 10

// told is the consumer with what the server has told of it.
func (cs consumer) told(info *jetstream.ConsumerInfo) *consumer {
	cfg := info.Config
	cs.cfg, cs.floor = cfg, info.AckFloor.Stream
	if cs.byServer = cfg.MaxDeliver > 0; cs.byServer {
		cs.limit = uint64(cfg.MaxDeliver)
	} else {
		cs.limit, _ = parseUint(cfg.Metadata[limitKey])
	}
	return &cs
}

// isLast reports whether the n-th delivery of a message is the last one that the
// server makes.
func (cs *consumer) isLast(n uint64) bool {
	return cs.byServer && n >= cs.limit
}

// goesOn reports whether the consumer, if it is made again, begins where it was: one
// that is for new messages, was made again before, or began with the last ones. As
// it was configured it would now miss some. One that began with the first, or at a
// time, misses nothing: it begins there again.
func (cs *consumer) goesOn() bool {
	switch cs.cfg.DeliverPolicy {
	case jetstream.DeliverNewPolicy, jetstream.DeliverByStartSequencePolicy, jetstream.DeliverLastPolicy, jetstream.DeliverLastPerSubjectPolicy:
		return true
	}
	return false
}

// replays reports whether the consumer, if it is made again, is to have everything
// handled again: from a stream that keeps what was acked, that may be why somebody
// has deleted it. Elsewhere a message that was acked comes again by mistake only.
func (cs *consumer) replays() bool {
	return cs.stream.retention == jetstream.LimitsPolicy && !cs.goesOn()
}

// ackWait is the shortest time in which the server may deliver an unsettled
// message again, as far as it can be extended: what has a deadline of 0, or nearly
// so, comes again before anybody can tell the server to wait.
func (cs *consumer) ackWait() time.Duration {
	wait := cs.cfg.AckWait
	if wait <= 0 {
		wait = defaultAckWait
	}
	for _, d := range cs.cfg.BackOff { // replaces AckWait, by delivery
		if d > 0 {
			wait = min(wait, d)
		}
	}
	return max(wait, minAckWait)
}

// expired reports whether the server has waited long enough for the settlement of
// the n-th delivery of a message to deliver it again. Where it does not wait at all,
// that says nothing: each delivery would be taken for expired, and none handled.
func (cs *consumer) expired(n uint64, waited time.Duration) bool {
	deadline := cs.cfg.AckWait
	if len(cs.cfg.BackOff) > 0 {
		deadline = scheduled(n, cs.cfg.BackOff)
	}
	return deadline > 0 && waited > deadline
}

// nak is what has the server deliver a message again that was delivered for the
// n-th time: after the delay, or at once if that is 0.
//
// A server does not start the delay now (processNak and checkPending in its
// server/consumer.go, from 2.7.1, which brought BackOff, to 2.15.2). It pretends
// that the message was delivered AckWait before the delay's end, and waits until
// BackOff's entry for this delivery has passed since. AckWait is the first entry,
// so by what a later one is longer, the message would come later. That is taken
// off; what is left may be 0 or less, which is not the same as a bare nak: that
// one does not wait at all.
func (cs *consumer) nak(n uint64, delay time.Duration) []byte {
	if delay <= 0 {
		return nakBody
	}
	if len(cs.cfg.BackOff) > 0 {
		delay -= scheduled(n, cs.cfg.BackOff) - cs.cfg.AckWait
	}
	return fmt.Appendf(nil, `-NAK {"delay":%d}`, delay.Nanoseconds())
}

// bindConsumer finds or creates the consumer of a subscription.
func (c *connection) bindConsumer(ctx context.Context, cfg *config, st *stream, topic, queue string) (*consumer, *jetstream.ConsumerInfo, error) {
	if queue == "" {
		name := "queueless-" + readableName(topic) + "-" + nuid.Next()
		if len(name) > maxNameLength {
			name = "queueless-" + nuid.Next()
		}
		cc := cfg.consumerConfigFor(st, topic)
		cc.Name = name
		if cc.InactiveThreshold == 0 {
			cc.InactiveThreshold = inactiveThreshold
		}
		if cfg.consumerConfig == nil && st.retention != jetstream.WorkQueuePolicy {
			// Everybody gets what is published from now on, as with core NATS;
			// a WorkQueue stream allows nothing but all.
			cc.DeliverPolicy = jetstream.DeliverNewPolicy
		}
		return c.createConsumer(ctx, st, topic, queue, cc)
	}
	return c.bindDurable(ctx, cfg, st, topic, queue, cfg.consumerConfigFor(st, topic))
}

// bindDurable applies the rule for durables. The queue's own name belongs to
// the first topic that was subscribed with it; each further topic of the same
// stream has a consumer of its own, named after queue and topic. Whoever comes
// later, in whatever order, finds them by their filters. If there is none, it is
// made with the configuration cc and the name that is free.
func (c *connection) bindDurable(ctx context.Context, cfg *config, st *stream, topic, queue string, cc jetstream.ConsumerConfig) (*consumer, *jetstream.ConsumerInfo, error) {
	const attempts = 5 // each lost race with another replica costs one
	var err error
	for range attempts {
		free := ""
		var taken error
		for _, name := range [...]string{queue, durableName(queue, topic)} {
			var info *jetstream.ConsumerInfo
			info, err = c.consumerInfo(ctx, st.name, name)
			if errors.Is(err, jetstream.ErrConsumerNotFound) {
				if free == "" {
					free = name
				}
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			cs := consumerOf(info, st)
			if filters(info.Config, st, topic) {
				if err := usable(info, cfg, topic); err != nil {
					return nil, nil, err
				}
				c.reportDifferences(cfg, cs, topic, queue)
				return cs, info, nil
			}
			if !cs.ours && taken == nil {
				taken = fmt.Errorf("%w: consumer %s of stream %s was not made by this broker and has the filter %s: choose another queue, or delete it",
					ErrConsumerConflict, name, st.name, describeFilter(info.Config))
			}
		}
		if cfg.othersConsumers && free != "" {
			return nil, nil, fmt.Errorf("%w, and with WithExistingConsumers the broker creates none: create the pull consumer %s on stream %s, with the filter %s and explicit acknowledgement",
				ErrConsumerNotFound, free, st.name, topic)
		}
		if taken != nil {
			return nil, nil, taken
		}
		if free == "" {
			return nil, nil, fmt.Errorf("%w: consumers %s and %s of stream %s serve other topics: choose another queue", ErrConsumerConflict, queue, durableName(queue, topic), st.name)
		}
		cc.Name, cc.Durable = free, free
		cs, info, createErr := c.createConsumer(ctx, st, topic, queue, cc)
		if createErr == nil {
			return cs, info, nil
		}
		err = createErr
		// Another replica may have created it, or its twin, since we looked.
		if !errors.Is(err, jetstream.ErrConsumerExists) && !errors.Is(err, ErrWorkQueueConflict) {
			return nil, nil, err
		}
		if errors.Is(err, ErrWorkQueueConflict) {
			if taken, lookErr := c.durableExists(ctx, st, topic, queue); lookErr != nil || !taken {
				return nil, nil, err
			}
		}
	}
	return nil, nil, err
}

// durableExists reports whether a consumer of the queue serves the topic now.
func (c *connection) durableExists(ctx context.Context, st *stream, topic, queue string) (bool, error) {
	for _, name := range [...]string{queue, durableName(queue, topic)} {
		info, err := c.consumerInfo(ctx, st.name, name)
		if err == nil && filters(info.Config, st, topic) {
			return true, nil
		}
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return false, err
		}
	}
	return false, nil
}

func (c *connection) consumerInfo(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	var info *jetstream.ConsumerInfo
	err := c.look(ctx, "CONSUMER.INFO."+stream+"."+name, func(ctx context.Context) error {
		cons, err := c.js.Consumer(ctx, stream, name)
		if err == nil {
			info = cons.CachedInfo()
		}
		return err
	})
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		return nil, fmt.Errorf("%w: consumer %s of stream %s is a push consumer; the broker needs a pull consumer", ErrConsumerConflict, name, stream)
	}
	if err != nil {
		return nil, fmt.Errorf("look up consumer %s of stream %s: %w", name, stream, err)
	}
	return info, nil
}

func (c *connection) createConsumer(ctx context.Context, st *stream, topic, queue string, cc jetstream.ConsumerConfig) (*consumer, *jetstream.ConsumerInfo, error) {
	if err := c.checkVersion(); err != nil {
		return nil, nil, err
	}
	var info *jetstream.ConsumerInfo
	err := c.api(ctx, "CONSUMER.CREATE."+st.name+"."+cc.Name, func(ctx context.Context) error {
		cons, err := c.js.CreateConsumer(ctx, st.name, cc)
		if err == nil {
			info = cons.CachedInfo()
		}
		return err
	})
	if err == nil {
		return consumerOf(info, st), info, nil
	}
	if cc.Durable == "" && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		// The server may have made it all the same, and it would be in the way of
		// the next try. Requests are served in order, so nobody need wait.
		_ = c.nc.Publish("$JS.API.CONSUMER.DELETE."+st.name+"."+cc.Name, nil)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeConsumerWQNotUnique || api.ErrorCode == codeConsumerWQNotUnfiltered) {
		asked := "a subscriber without a queue"
		if queue != "" {
			asked = "queue " + queue
		}
		return nil, nil, fmt.Errorf("%w: stream %s is a WorkQueue, where each subject has one consumer, and %s overlaps %s, so %s cannot consume it: share one queue and topic, or use a stream with Interest or Limits retention for fan-out: %w",
			ErrWorkQueueConflict, st.name, c.consumersInTheWay(ctx, st, topic), topic, asked, err)
	}
	return nil, nil, fmt.Errorf("create consumer %s on stream %s: %w", cc.Name, st.name, err)
}

// consumersInTheWay names the consumers of a stream that overlap a topic, for
// an error message.
func (c *connection) consumersInTheWay(ctx context.Context, st *stream, topic string) string {
	var names []string
	_ = c.api(ctx, "CONSUMER.LIST."+st.name, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, st.name)
		if err != nil {
			return err
		}
		list := s.ListConsumers(ctx)
		for info := range list.Info() {
			for _, f := range filterSubjects(info.Config) {
				if overlaps(f, topic) {
					names = append(names, fmt.Sprintf("consumer %s (%s)", info.Name, f))
					break
				}
			}
		}
		return list.Err()
	})
	if len(names) == 0 {
		return "another consumer"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func consumerOf(info *jetstream.ConsumerInfo, st *stream) *consumer {
	_, ours := info.Config.Metadata[ownerKey]
	return consumer{
		name:      info.Name,
		stream:    st,
		ephemeral: info.Config.Durable == "",
		ours:      ours,
		created:   info.Created,
	}.told(info)
}

// consumerConfigFor fills in the template for a topic, but for the name.
func (c *config) consumerConfigFor(st *stream, topic string) jetstream.ConsumerConfig {
	var cc jetstream.ConsumerConfig
	if c.consumerConfig != nil {
		cc = *c.consumerConfig
	}
	cc.AckPolicy = jetstream.AckExplicitPolicy
	if cc.AckWait == 0 && len(cc.BackOff) == 0 { // with BackOff the server derives it
		cc.AckWait = defaultAckWait
	}
	cc.FilterSubject = topic
	cc.Metadata = owned(cc.Metadata)
	if c.deadLetter != "" && cc.MaxDeliver > 0 && !covers(topic, c.deadLetter) {
		cc.Metadata[limitKey] = strconv.Itoa(cc.MaxDeliver)
		cc.MaxDeliver = -1
	}
	return cc
}

// filterSubjects returns what a consumer receives; ">" when it has no filter.
func filterSubjects(cc jetstream.ConsumerConfig) []string {
	switch {
	case len(cc.FilterSubjects) > 0:
		return cc.FilterSubjects
	case cc.FilterSubject != "":
		return []string{cc.FilterSubject}
	}
	return []string{">"}
}

// filters reports whether a consumer receives the topic and nothing else.
func filters(cc jetstream.ConsumerConfig, st *stream, topic string) bool {
	f := filterSubjects(cc)
	if len(f) != 1 {
		return false
	}
	return f[0] == topic || f[0] == ">" && len(st.subjects) == 1 && st.subjects[0] == topic
}

func describeFilter(cc jetstream.ConsumerConfig) string {
	return strings.Join(filterSubjects(cc), ", ")
}

// usable reports why the broker cannot work with an existing consumer of a topic.
func usable(info *jetstream.ConsumerInfo, cfg *config, topic string) error {
	switch {
	case info.Config.AckPolicy != jetstream.AckExplicitPolicy:
		return fmt.Errorf("%w: consumer %s of stream %s has ack policy %s; the broker settles each message and needs explicit",
			ErrConsumerConflict, info.Name, info.Stream, info.Config.AckPolicy)
	case len(info.Config.PriorityGroups) > 0:
		return fmt.Errorf("%w: consumer %s of stream %s has priority groups, which the broker does not support", ErrConsumerConflict, info.Name, info.Stream)
	case info.Config.HeadersOnly && cfg.deadLetter != "" && cfg.deadLetter != topic: // what fails there is no dead letter
		return fmt.Errorf("%w: consumer %s of stream %s delivers headers only, and WithDeadLetter keeps the bodies of messages: leave it out, or take another queue", ErrConsumerConflict, info.Name, info.Stream)
	}
	return nil
}

// reportDifferences logs where an existing consumer differs from what this
// subscriber asks for. The consumer's settings belong to whoever made it: to
// change them at each start would undo an operator's tuning.
func (c *connection) reportDifferences(cfg *config, cs *consumer, topic, queue string) {
	var want jetstream.ConsumerConfig // nothing
	if cfg.consumerConfig != nil {
		want = *cfg.consumerConfig
	}
	have := cs.cfg
	var diffs []string
	differ := func(name string, asked bool, w, h any) {
		if asked && fmt.Sprint(w) != fmt.Sprint(h) {
			diffs = append(diffs, fmt.Sprintf("%s is %v, not %v", name, h, w))
		}
	}
	differ("AckWait", want.AckWait != 0 && len(want.BackOff) == 0, want.AckWait, have.AckWait)
	differ("MaxDeliver", want.MaxDeliver > 0, want.MaxDeliver, cs.limit)
	if cs.limit > 0 && !cs.byServer && cfg.deadLetter == "" {
		// There is no event when such a message has had them: it comes again.
		diffs = append(diffs, fmt.Sprintf("the broker counts its limit of %d deliveries, but only with WithDeadLetter, so what fails is delivered again for ever: set that, or the consumer's max_deliver (nats consumer edit)", cs.limit))
	}
	differ("MaxAckPending", want.MaxAckPending != 0, want.MaxAckPending, have.MaxAckPending)
	differ("BackOff", len(want.BackOff) != 0, want.BackOff, have.BackOff)
	differ("DeliverPolicy", want.DeliverPolicy != jetstream.DeliverAllPolicy, want.DeliverPolicy, have.DeliverPolicy)
	if len(diffs) > 0 {
		c.log.Fields(fields{"topic": topic, "queue": queue, "stream": cs.stream.name, "consumer": cs.name}).
			Logf(logger.WarnLevel, "jetstream: consumer %s of stream %s exists and is used as it is: %s", cs.name, cs.stream.name, strings.Join(diffs, "; "))
	}
}
