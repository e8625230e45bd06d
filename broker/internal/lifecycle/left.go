package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"go-micro-jetstream/broker/internal/fault"
)

// Left is what has not ended within the bound of Disconnect.
type Left struct {
	Handlers      int
	Subscriptions int  // whose handlers have all returned
	Subscribes    int  // calls of Subscribe
	Looks         bool // the monitor waits for an answer of the server, or for a hook
	Publishes     int
	Hooks         string // their names
	States        bool   // a hook of ConnectionChanged runs
}

// TimeoutError says what was left behind, or returns nil if nothing was.
func (l Left) TimeoutError(bound time.Duration, expired bool) error {
	var left []string
	if l.States {
		left = append(left, "a hook of ConnectionChanged still running")
	}
	if l.Handlers > 0 {
		left = append(left, fmt.Sprintf("%d handlers still running, whose messages are delivered again after AckWait", l.Handlers))
	}
	if expired && l.Hooks != "" {
		left = append(left, "hooks still running: "+l.Hooks)
	}
	if l.Subscriptions > 0 {
		left = append(left, fmt.Sprintf("%d subscriptions that have not ended, as a hook, the logger or the server holds them up", l.Subscriptions))
	}
	if l.Subscribes > 0 {
		left = append(left, fmt.Sprintf("%d calls of Subscribe under way", l.Subscribes))
	}
	if l.Looks {
		left = append(left, "a question to the server about a consumer")
	}
	if l.Publishes > 0 {
		left = append(left, fmt.Sprintf("%d publishes without an answer, whose callers are told, or whose done still runs", l.Publishes))
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("jetstream: disconnect: %w after %v: %s", fault.ErrShutdownTimeout, bound, strings.Join(left, "; "))
}
