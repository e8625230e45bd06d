package consume

import (
	"fmt"
	"hash/maphash"
	"time"

	"go-micro-jetstream/broker/internal/hand"
	"go-micro-jetstream/broker/internal/wire"
)

const (
	// keyTime is after how long the messages whose keys are known are started first.
	keyTime = time.Millisecond
	// slowKey is how long a function may take for a key before the log says so.
	slowKey = time.Second
)

// keySeed is that of all keys in this process.
var keySeed = maphash.MakeSeed()

// keyOf makes a number of a key. Two keys with the same number also wait for each other,
// which does no harm.
func keyOf(key string) uint64 { return maphash.String(keySeed, key) }

// ownKey is the number of a message that has no key.
func ownKey(d *Delivery) uint64 {
	return maphash.Comparable(keySeed, d.Meta.Identity())
}

// sort asks for keys, and puts the messages into the lanes of these. It returns false if
// there is nothing to sort, or another worker is at it: the order of the stream must be
// kept.
func (s *Subscription) sort() bool {
	if s.cfg.Key == nil {
		return false
	}
	batch := s.hand.Unsorted()
	if len(batch) == 0 {
		return false
	}
	keys := make([]uint64, 0, hand.KeyBatch)
	s.keyed.Begin()
	defer func() { // also if the user's function ends the goroutine
		s.hand.Sorted(keys)
		s.keyed.End()
	}()
	for began := time.Now(); len(keys) < len(batch); {
		d := batch[len(keys)]
		keys = append(keys, ownKey(d)) // if it does not return
		if wire.IsDeleteMarker(d.Msg) {
			continue
		}
		if key := s.cfg.Key(d); d.KeyErr() == nil {
			keys[len(keys)-1] = keyOf(key)
		}
		if took := time.Since(began); took > slowKey {
			s.logSlowKey(d, took)
			break
		} else if took > keyTime {
			break
		}
	}
	return true
}

// lookAround says when fetching has come to a stand because of stuck keys, and when it
// goes on.
func (s *Subscription) lookAround() {
	if s.cfg.Key == nil {
		return
	}
	c, changed := s.hand.Crowded()
	if !changed {
		return
	}
	s.crowded.Store(c.Full)
	if c.Full {
		s.log.Warn(fmt.Sprintf("no more is fetched: %d messages wait in hand behind others of their %d keys, which are being handled or are to be handled again; it goes on when one of these keys does", c.Messages, c.Keys))
	} else {
		s.log.Info(fmt.Sprintf("fetching goes on: %d messages wait in hand behind others of their keys", c.Messages))
	}
	s.cfg.Observer.Crowded(c)
}

func (s *Subscription) logSlowKey(d *Delivery, took time.Duration) {
	const text = "the key function of OrderBy took %v; until it returns, nothing more is started%s"
	if more, ok := s.lines.Allow(text); ok {
		s.log.Warn(fmt.Sprintf(text, took.Round(time.Millisecond), more), d.Attrs()...)
	}
}
