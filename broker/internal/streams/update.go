package streams

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/wire"
)

// followed is what a stream was last compared with.
type followed struct {
	template *jetstream.StreamConfig
	stream   *Stream
}

// follow compares a stream with the template that the code has for the topic, and
// applies what the code has changed, provided that this module made the stream and
// nobody else has changed that meanwhile. It logs what it applies, and what it does
// not. It never fails: the stream that it returns can be used, as it was before if
// the server refuses the change. The caller holds ss.ensuring.
//
// Without a template nothing is asked for: a service may use the stream of another
// one that has a template.
func (ss *Streams) follow(ctx context.Context, rules *Rules, s *Stream, topic string) *Stream {
	if rules.StreamTemplate == nil {
		return s
	}
	want, err := rules.StreamConfig(topic)
	if err != nil {
		return s // the template is for other topics
	}
	if s.Ours && !rules.NeverCreateStreams && s.Name == want.Name {
		s = ss.apply(ctx, rules, s, want, topic)
	} else if differences := settings.Differences(want, s.config); len(differences) > 0 {
		ss.warn(s, topic, fmt.Sprintf("exists and is used as it is: %s", asked.AreNot(differences)))
	}
	ss.followed[s.Name] = followed{rules.StreamTemplate, s}
	return s
}

// follows reports whether the stream was compared with the template since it was
// made. Publishing does not compare it again: two versions of a service would undo
// each other's changes with each outage.
func (ss *Streams) follows(rules *Rules, s *Stream) bool {
	f, ok := ss.followed[s.Name]
	return ok && f.template == rules.StreamTemplate && f.stream.Created.Equal(s.Created)
}

// followForConsumer is follow for a subscriber. It compares the stream again if
// anything was learned of it since.
func (ss *Streams) followForConsumer(ctx context.Context, rules *Rules, s *Stream, topic string) (*Stream, error) {
	if rules.StreamTemplate == nil {
		return s, nil
	}
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
func (ss *Streams) grown(ctx context.Context, rules *Rules, topic string) *Stream {
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
func (ss *Streams) apply(ctx context.Context, rules *Rules, s *Stream, want jetstream.StreamConfig, topic string) *Stream {
	last := asked.Parse(s.config.Metadata[AskedKey])
	plan := settings.Compare(last, want, s.config)
	planSubjects(&plan, last, rules.StreamTemplate.Subjects)
	if len(plan.Kept) > 0 {
		ss.warn(s, topic, fmt.Sprintf("%s and is used as it is: %s", last.Changed(), asked.AreNot(plan.Kept)))
	}
	if len(plan.Fixed) > 0 {
		ss.warn(s, topic, fmt.Sprintf("is used as it is, as the server cannot change this: %s; name another stream in WithStreamConfig, or stop all its users, save its messages (nats stream backup), and delete it (nats stream rm %s): the broker makes it again",
			asked.AreNot(plan.Fixed), s.Name))
	}
	plan.Config.Metadata = maps.Clone(s.config.Metadata)
	plan.Config.Metadata[AskedKey] = plan.Record.String()
	if len(plan.Apply) == 0 && plan.Config.Metadata[AskedKey] == s.config.Metadata[AskedKey] {
		return s
	}
	now, err := ss.update(ctx, plan.Config)
	switch {
	case err == nil && len(plan.Apply) > 0:
		ss.conn.Log().Info(fmt.Sprintf("stream %s follows its configuration: %s", s.Name, asked.Were(plan.Apply)), "topic", topic, "stream", s.Name)
		ss.takeCompanionAlong(ctx, now, plan.Apply)
	case err != nil && len(plan.Apply) > 0:
		ss.warn(s, topic, fmt.Sprintf("cannot follow its configuration and is used as it is: %s: %v", asked.AreNot(plan.Apply), err))
	}
	if err != nil {
		return s
	}
	return now
}

// companionSettings are what of a companion follows its stream.
var companionSettings = asked.Kind[jetstream.StreamConfig]{
	Fields: []string{"Replicas"},
	Fixed:  func(string, *jetstream.StreamConfig, *jetstream.StreamConfig) bool { return false },
	Fill:   fill,
}

// takeCompanionAlong has the companion of a stream follow what was changed of that.
func (ss *Streams) takeCompanionAlong(ctx context.Context, s *Stream, changes []asked.Change) {
	of := func(c asked.Change) bool { return slices.Contains(companionSettings.Fields, c.Field) }
	if sourceIn(s.config) < 0 || !slices.ContainsFunc(changes, of) {
		return
	}
	// If nobody answers, the next message that is delivered later has it follow.
	if companion, err := ss.Info(ctx, wire.LaterStream(s.Name)); err == nil {
		ss.followStream(ctx, s.config, companion)
	}
}

// followStream has a companion of this module be as safe as its stream, unless somebody
// has chosen otherwise for it. It never fails, as follow. The caller holds ss.ensuring.
func (ss *Streams) followStream(ctx context.Context, sc jetstream.StreamConfig, companion *Stream) *Stream {
	if !companion.Ours {
		return companion
	}
	plan := companionSettings.Compare(asked.Parse(companion.config.Metadata[AskedKey]), sc, companion.config)
	if len(plan.Apply) == 0 {
		return companion
	}
	plan.Config.Metadata = maps.Clone(companion.config.Metadata)
	plan.Config.Metadata[AskedKey] = plan.Record.String()
	now, err := ss.update(ctx, plan.Config)
	if err == nil {
		ss.conn.Log().Info(fmt.Sprintf("stream %s follows stream %s: %s", companion.Name, sc.Name, asked.Were(plan.Apply)), "stream", companion.Name)
		return now
	}
	if ss.behind[companion.Name] != sc.Replicas { // it is tried again, without another line
		ss.behind[companion.Name] = sc.Replicas
		ss.conn.Log().Warn(fmt.Sprintf("stream %s cannot follow stream %s and is used as it is: %s: %v", companion.Name, sc.Name, asked.AreNot(plan.Apply), err), "stream", companion.Name)
	}
	return companion
}

func (ss *Streams) warn(s *Stream, topic, text string) {
	ss.conn.Log().Warn(fmt.Sprintf("stream %s %s", s.Name, text), "topic", topic, "stream", s.Name)
}

// update asks the server to change a stream.
func (ss *Streams) update(ctx context.Context, sc jetstream.StreamConfig) (*Stream, error) {
	if err := ss.checkInbox(sc.Subjects); err != nil {
		return nil, err
	}
	// The code does not ask for sources, but another process may have added the one that
	// brings what is delivered later.
	now, err := ss.config(ctx, sc.Name)
	if err != nil {
		return nil, err
	}
	sc.Sources = now.Sources
	info, err := ss.change(ctx, sc)
	if err != nil {
		return nil, err
	}
	return streamOf(info)
}

// planSubjects adds the subjects to the plan that a template names. They are only
// ever added: other services may have a part in the stream, and a subject that is
// taken off takes publishers off. One that somebody else has taken off stays off.
func planSubjects(p *asked.Plan[jetstream.StreamConfig], last asked.Record, want []string) {
	if len(want) == 0 {
		return
	}
	have := p.Config.Subjects
	var before []string
	last.Get(subjectsField, &before)
	var added, removed []string
	for _, subject := range want {
		switch {
		case wire.CoversAny(have, subject):
		case slices.Contains(before, subject):
			removed = append(removed, subject)
		default:
			added = append(added, subject)
		}
	}
	change := asked.Change{Field: "Subjects", Old: fmt.Sprint(have), New: fmt.Sprint(want)}
	if len(removed) > 0 {
		p.Kept = append(p.Kept, change)
	}
	if len(added) > 0 {
		// The subjects of a stream must not overlap.
		left := slices.DeleteFunc(slices.Clone(have), func(subject string) bool { return wire.CoversAny(added, subject) })
		p.Config.Subjects = append(left, added...)
		change.New = fmt.Sprint(p.Config.Subjects)
		p.Apply = append(p.Apply, change)
	}
	for _, subject := range before { // of others who have added theirs
		if !slices.Contains(want, subject) && wire.CoversAny(have, subject) {
			want = append(slices.Clip(want), subject)
		}
	}
	p.Record.Set(subjectsField, want)
}
