// Package hanging tells code of the user that hangs from code that is only slow: handlers
// by how quick they usually are, and other code by a fixed time.
package hanging

import "time"

const (
	// After is the shortest time without a start of a handler after which those that run
	// count as hanging. Slower handlers have longer: see unusual.
	After = 10 * time.Second
	// unusual is how many times longer than usual a handler runs that counts as
	// hanging.
	unusual = 20
	// unknownFactor is how much longer than the floor that is while no handler has
	// returned yet, and nobody knows what is usual.
	unknownFactor = 3
)

// Pace is how quickly handlers lately were. It has no lock: the caller's guards it.
type Pace struct {
	floor time.Duration // see After
	begun time.Time     // when a handler was last started
	usual time.Duration // of handlers; 0: not known yet
}

// NewPace returns the pace of handlers that count as hanging after the floor at the
// earliest.
func NewPace(floor time.Duration) Pace { return Pace{floor: floor} }

// Floor returns how long nobody hangs.
func (p *Pace) Floor() time.Duration { return p.floor }

// Started notes that a handler was started.
func (p *Pace) Started(at time.Time) { p.begun = at }

// Returned learns from a handler. A slow one counts at once, quick ones count little by
// little.
func (p *Pace) Returned(took time.Duration) {
	p.usual = max(took, p.usual-(p.usual-took)/8, 1)
}

// patience returns how long no handler may be started until those that run count as
// hanging.
func (p *Pace) patience() time.Duration {
	if p.usual == 0 {
		return unknownFactor * p.floor
	}
	return max(p.floor, unusual*p.usual)
}

// Hangs reports whether no handler was started for much longer than usual, although
// messages have waited for as long as that.
func (p *Pace) Hangs(since, now time.Time) bool {
	if p.begun.After(since) {
		since = p.begun
	}
	return now.Sub(since) > p.patience()
}
