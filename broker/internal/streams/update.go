package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/companion"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

// followed is what a stream was last compared with.
type followed struct {
	template *jetstream.StreamConfig
	stream   *asset.Stream
}

// follow compares a stream with the template that the code has for the topic, and
// applies what the code has changed, provided that this module made the stream and
// nobody else has changed that meanwhile. It logs what it applies, and what it does
// not. It never fails: the stream that it returns can be used, as it was before if
// the server refuses the change. The caller holds ss.ensuring.
//
// Without a template nothing is asked for: a service may use the stream of another
// one that has a template.
func (ss *Streams) follow(ctx context.Context, rules *asset.Rules, s *asset.Stream, topic string) *asset.Stream {
	if rules.StreamTemplate == nil {
		return s
	}
	want, err := rules.StreamConfig(topic)
	if err != nil && rules.StreamName != nil && !errors.Is(err, fault.ErrStreamMismatch) { // no name, or no legal one
		ss.warn(s, topic, fmt.Sprintf("is used as it is, and not compared with WithStreamConfig: %v", err))
		return s
	}
	if err != nil {
		return s // the template is for other topics
	}
	if s.Ours && !rules.NeverCreateStreams && s.Name == want.Name {
		s = ss.apply(ctx, rules, s, want, topic)
	} else if differences := asset.Settings.Differences(want, s.Config); len(differences) > 0 {
		ss.warn(s, topic, fmt.Sprintf("exists and is used as it is: %s", asked.AreNot(differences)))
	}
	ss.followed[s.Name] = followed{rules.StreamTemplate, s}
	return s
}

// follows reports whether the stream was compared with the template since it was
// made. Publishing does not compare it again: two versions of a service would undo
// each other's changes with each outage.
func (ss *Streams) follows(rules *asset.Rules, s *asset.Stream) bool {
	f, ok := ss.followed[s.Name]
	return ok && f.template == rules.StreamTemplate && f.stream.Created.Equal(s.Created)
}

// followForConsumer is follow for a subscriber. It compares the stream again if
// anything was learned of it since.
func (ss *Streams) followForConsumer(ctx context.Context, rules *asset.Rules, s *asset.Stream, topic string) (*asset.Stream, error) {
	if rules.StreamTemplate == nil {
		return s, nil
	}
	rules = ss.named(ctx, rules, topic)
	if err := ss.ensuring.acquire(ctx); err != nil {
		return nil, err
	}
	defer ss.ensuring.release()
	if known := ss.Known(topic); known != nil {
		s = known
	}
	if f, ok := ss.followed[s.Name]; ok && f.template == rules.StreamTemplate && f.stream == s {
		return s, nil
	}
	now := ss.follow(ctx, rules, s, topic)
	if now != s {
		ss.cache.add(now)
	}
	return now, nil
}

// grown returns the stream that the template names for the topic, if this module
// made it and it captures the topic now that the template's subjects are added. It
// returns nil otherwise. The caller holds ss.ensuring.
func (ss *Streams) grown(ctx context.Context, rules *asset.Rules, topic string) *asset.Stream {
	if rules.StreamTemplate == nil || len(rules.StreamTemplate.Subjects) == 0 || rules.NeverCreateStreams {
		return nil
	}
	want, err := rules.StreamConfig(topic)
	if err != nil {
		return nil
	}
	s, err := ss.Info(ctx, want.Name)
	if err != nil {
		return nil
	}
	if s = ss.follow(ctx, rules, s, topic); wire.CoversAny(s.Subjects, topic) {
		return s
	}
	return nil
}

// apply asks the server for what the code has changed.
func (ss *Streams) apply(ctx context.Context, rules *asset.Rules, s *asset.Stream, want jetstream.StreamConfig, topic string) *asset.Stream {
	last := asked.Parse(s.Config.Metadata[asset.AskedKey])
	plan := asset.Settings.Compare(last, want, s.Config)
	if spared, taken := ss.companions.Spare(ctx, s.Config, want, plan.Apply); len(taken) > 0 {
		ss.warn(s, topic, fmt.Sprintf("keeps its limit because messages wait for it in %s, which the new one could remove or refuse: %s; it follows at a later Subscribe, when none waits any more",
			companion.PlaceOf(s.Config), asked.AreNot(taken)))
		plan = asset.Settings.Compare(last, spared, s.Config)
	}
	asset.PlanSubjects(&plan, last, rules.StreamTemplate.Subjects)
	if len(plan.Kept) > 0 {
		ss.warn(s, topic, fmt.Sprintf("%s and is used as it is: %s", last.Changed(), asked.AreNot(plan.Kept)))
	}
	if len(plan.Fixed) > 0 {
		ss.warn(s, topic, fmt.Sprintf("is used as it is, as the server cannot change this: %s; name another stream in WithStreamConfig, or stop all its users, save its messages (nats stream backup), and delete it (nats stream rm %s): the broker makes it again",
			asked.AreNot(plan.Fixed), s.Name))
	}
	plan.Config.Metadata = maps.Clone(s.Config.Metadata)
	plan.Config.Metadata[asset.AskedKey] = plan.Record.String()
	if len(plan.Apply) == 0 && plan.Config.Metadata[asset.AskedKey] == s.Config.Metadata[asset.AskedKey] {
		return s
	}
	now, err := ss.Update(ctx, plan.Config)
	switch {
	case err == nil && len(plan.Apply) > 0:
		ss.conn.Log().Info(fmt.Sprintf("stream %s follows its configuration: %s", s.Name, asked.Were(plan.Apply)), "topic", topic, "stream", s.Name)
		ss.companions.Follow(ctx, now, plan.Apply)
	case err != nil && len(plan.Apply) > 0:
		ss.warn(s, topic, fmt.Sprintf("cannot follow its configuration and is used as it is: %s: %v", asked.AreNot(plan.Apply), err))
	}
	if err != nil {
		return s
	}
	ss.companions.Relink(ctx, now)
	return now
}

func (ss *Streams) warn(s *asset.Stream, topic, text string) {
	ss.conn.Log().Warn(fmt.Sprintf("stream %s %s", s.Name, text), "topic", topic, "stream", s.Name)
}
