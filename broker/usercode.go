package broker

import (
	"strings"
	"sync/atomic"
)

// codeOfUser is a place where code of the user runs that the end of a subscription
// waits for, beside handlers.
type codeOfUser int

const (
	inPublishStart codeOfUser = iota
	inPublished
	inSubscriptionStart
	inSubscriptionEnd
	inSubscribeFailed
	inFetched // from here on fetching waits for them
	inHeld
	inActiveChanged
	inFetchError
	inBackoff
	inConsumerState
	inSkipped // until here
	inSettled // what is given back beside the workers waits for this one and for those
	inHandleStart
	inPanicked
	inDeadLettered
	inExhausted
	inHandled
	inConnectionChanged
	inErrorHandler
	placesOfUser
)

var placeNames = [placesOfUser]string{
	"PublishStart", "Published", "SubscriptionStart", "SubscriptionEnd", "SubscribeFailed",
	"Fetched", "Held", "ActiveChanged", "FetchError", "Backoff", "ConsumerState", "Skipped", "Settled", "HandleStart", "Panicked",
	"DeadLettered", "Exhausted", "Handled", "ConnectionChanged", "broker.ErrorHandler",
}

// insideUser counts the calls of user code that have not returned. It is safe for
// concurrent use.
type insideUser [placesOfUser]atomic.Int64

// names returns where code of the user runs now, or nothing. ConnectionChanged has a
// goroutine of its own, and is told of separately.
func (i *insideUser) names() string { return i.among(0, placesOfUser-1) }

// fetching is names for hooks that fetching waits for.
func (i *insideUser) fetching() string { return i.among(inFetched, inSkipped) }

// beside is names for hooks that what goes on beside the workers waits for.
func (i *insideUser) beside() string { return i.among(inFetched, inSettled) }

func (i *insideUser) among(first, last codeOfUser) string {
	var names []string
	for place := first; place <= last; place++ {
		if place != inConnectionChanged && i[place].Load() > 0 {
			names = append(names, placeNames[place])
		}
	}
	return strings.Join(names, ", ")
}
