package produce

import (
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/asset"
)

// A copy is sent again only if it arrives within the duplicates window also after it was
// held up: for as long as a silent connection lives where the window permits that.
func TestACopyIsSentAgainWhileItArrivesInTheWindow(t *testing.T) {
	t.Parallel()
	for window, last := range map[time.Duration]time.Duration{
		time.Second:         -time.Second, // never
		5 * time.Second:     3 * time.Second,
		20 * time.Second:    15 * time.Second,
		2 * time.Minute:     90 * time.Second,
		10 * time.Minute:    570 * time.Second,
		24 * 60 * time.Hour: 24*60*time.Hour - silentTimeout,
	} {
		st := &asset.Stream{Duplicates: window}
		p := publication{sent: time.Now()}
		if !p.repeatable(st, p.sent.Add(last-time.Millisecond)) || p.repeatable(st, p.sent.Add(last)) {
			t.Errorf("with a window of %v it is not sent again until %v", window, last)
		}
	}
}
