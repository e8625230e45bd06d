package asset

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asked"
	"go-micro-jetstream/broker/internal/wire"
)

// AskedKey holds, in the metadata of a stream or consumer that this module made,
// what was last asked for.
const AskedKey = OwnerKey + "-asked"

// subjectsField is the name under which the record keeps the subjects that a
// template names. Those that come from the topic are not part of it.
const subjectsField = "subjects"

// defaultDuplicates is the window that the server chooses
// (StreamDefaultDuplicatesWindow in server/stream.go of nats-server).
const defaultDuplicates = 2 * time.Minute

// Settings are what of a stream may follow the code. What is missing is fixed when
// the stream is made (FirstSeq, AllowMsgCounter, PersistMode), is a matter of where
// the messages come from (Mirror, MirrorDirect, Sources, SubjectTransform), cannot
// be taken back (Sealed), is refused (NoAck), or has rules of its own (Name,
// Subjects, Metadata).
var Settings = asked.Kind[jetstream.StreamConfig]{
	Fields: []string{
		"Description", "Retention", "MaxConsumers", "MaxMsgs", "MaxBytes", "Discard", "DiscardNewPerSubject", "MaxAge",
		"MaxMsgsPerSubject", "MaxMsgSize", "Storage", "Replicas", "Duplicates", "Placement", "DenyDelete", "DenyPurge",
		"AllowRollup", "Compression", "RePublish", "AllowDirect", "ConsumerLimits", "AllowMsgTTL",
		"SubjectDeleteMarkerTTL", "AllowAtomicPublish", "AllowMsgSchedules", "AllowBatchPublish",
	},
	Always: []string{"Retention", "Storage"}, // a template is taken literally
	Fixed:  fixed,
	Fill:   fill,
}

// fixed knows what the server refuses to change (configUpdateCheck in
// server/stream.go of nats-server).
func fixed(field string, have, want *jetstream.StreamConfig) bool {
	switch field {
	case "Storage":
		return true
	case "Retention":
		return have.Retention == jetstream.WorkQueuePolicy || want.Retention == jetstream.WorkQueuePolicy
	case "DenyDelete":
		return have.DenyDelete
	case "DenyPurge":
		return have.DenyPurge
	case "AllowMsgTTL":
		return have.AllowMsgTTL
	case "AllowMsgSchedules":
		return have.AllowMsgSchedules
	}
	return false
}

// fill fills in what the server chooses (checkStreamCfg in server/stream.go of
// nats-server).
func fill(sc *jetstream.StreamConfig) {
	for _, n := range []*int64{&sc.MaxMsgs, &sc.MaxBytes, &sc.MaxMsgsPerSubject} {
		if *n <= 0 {
			*n = -1
		}
	}
	if sc.MaxMsgSize <= 0 {
		sc.MaxMsgSize = -1
	}
	if sc.MaxConsumers <= 0 {
		sc.MaxConsumers = -1
	}
	if sc.Replicas == 0 {
		sc.Replicas = 1
	}
	if sc.Duplicates == 0 {
		sc.Duplicates = defaultDuplicates
		if sc.MaxAge > 0 {
			sc.Duplicates = min(sc.Duplicates, sc.MaxAge)
		}
	}
}

// recordOf returns the record of a template that was filled in.
func (r *Rules) recordOf(sc jetstream.StreamConfig) asked.Record {
	record := Settings.RecordOf(sc)
	if r.StreamTemplate != nil {
		record.Set(subjectsField, r.StreamTemplate.Subjects)
	}
	return record
}

// PlanSubjects adds the subjects to the plan that a template names. They are only
// ever added: other services may have a part in the stream, and a subject that is
// taken off takes publishers off. One that somebody else has taken off stays off.
func PlanSubjects(p *asked.Plan[jetstream.StreamConfig], last asked.Record, want []string) {
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
