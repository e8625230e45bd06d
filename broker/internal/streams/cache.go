package streams

import (
	"slices"
	"sync/atomic"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/wire"
)

// cache remembers streams by their subjects. With it, a publication asks the
// server once per stream, not once per message or topic. Readers take no lock.
// Writers hold Streams.ensuring.
type cache struct {
	index atomic.Pointer[index]
}

// index is never changed once it is published.
type index struct {
	byToken map[string][]*asset.Stream // by the first token of a subject, which may be "*" or ">"
	lost    []*asset.Stream            // made by others, and gone; see Streams.checkLost
}

// find returns a stream that captures the topic, or nil.
func (sc *cache) find(topic string) *asset.Stream {
	idx := sc.index.Load()
	if idx == nil {
		return nil
	}
	for _, token := range [...]string{wire.FirstToken(topic), "*", ">"} {
		for _, s := range idx.byToken[token] {
			if wire.CoversAny(s.Subjects, topic) {
				return s
			}
		}
	}
	return nil
}

// lost returns the streams of others that are gone and that a stream with these
// subjects would overlap with.
func (sc *cache) lost(subjects []string) []*asset.Stream {
	idx := sc.index.Load()
	if idx == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(idx.lost), func(s *asset.Stream) bool {
		return !slices.ContainsFunc(s.Subjects, func(a string) bool {
			return slices.ContainsFunc(subjects, func(b string) bool { return wire.Overlaps(a, b) })
		})
	})
}

// add remembers a stream, in place of an earlier one of the same name.
func (sc *cache) add(s *asset.Stream) {
	idx := sc.without(s)
	for _, subject := range s.Subjects {
		token := wire.FirstToken(subject)
		if !slices.Contains(idx.byToken[token], s) {
			idx.byToken[token] = append(slices.Clip(idx.byToken[token]), s)
		}
	}
	sc.index.Store(idx)
}

// remove forgets a stream that is gone or has changed.
func (sc *cache) remove(s *asset.Stream) {
	idx := sc.without(s)
	if !s.Ours && !s.Mapped {
		idx.lost = append(slices.Clip(idx.lost), s)
	}
	sc.index.Store(idx)
}

// without returns a copy of the index that lacks the stream. A topic that a mapping leads
// to it has an entry of its own.
func (sc *cache) without(gone *asset.Stream) *index {
	idx := &index{byToken: map[string][]*asset.Stream{}}
	named := func(s *asset.Stream) bool {
		return s.Name == gone.Name && s.Mapped == gone.Mapped && (!s.Mapped || s.Subjects[0] == gone.Subjects[0])
	}
	if old := sc.index.Load(); old != nil {
		for token, streams := range old.byToken {
			if left := slices.DeleteFunc(slices.Clone(streams), named); len(left) > 0 {
				idx.byToken[token] = left
			}
		}
		idx.lost = slices.DeleteFunc(slices.Clone(old.lost), named)
	}
	return idx
}
