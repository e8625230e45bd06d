package produce

import (
	"context"
	"errors"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/internal/natstest"
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

// A write that takes longer than a try fails when nobody waits for the answer any more.
// The publish that ends with it leaves no wait behind, as its memory serves another one.
func TestAPublishThatFailsAfterItsTryLeavesNoWaitBehind(t *testing.T) {
	t.Parallel()
	publisher := &Publisher{inflight: inflight{prefix: "inbox.", waiting: make(map[uint64]*waiter)}}
	f := &publisher.inflight
	defer f.close()
	p := publication{publisher: publisher, waiter: newWaiter()}
	p.waiter.limit = time.Now()
	if _, _, ok := f.register(&p.waiter, f.now()); !ok {
		t.Fatal("not registered")
	}
	natstest.Eventually(t, "the try is over", func() bool { return p.waiter.outcome() == unanswered })
	cause := errors.New("broken pipe")
	if _, err := p.run(context.Background(), result{outcome: refused, err: cause}); !errors.Is(err, cause) {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) > 0 {
		t.Errorf("%d wait", len(f.waiting))
	}
}
