package consumers

import (
	"fmt"

	"go-micro-jetstream/broker/internal/asset"
)

// Changes says what somebody has changed of a consumer under a subscription, where
// that changes what the subscription gets. The former one is what was known before.
func (c *Consumer) Changes(former *Consumer) (texts []string) {
	say := func(format string, args ...any) { texts = append(texts, fmt.Sprintf(format, args...)) }
	about := fmt.Sprintf("consumer %s of stream %s", c.Name, c.Stream.Name)
	_, marked := c.Config.Metadata[asset.OwnerKey]
	_, was := former.Config.Metadata[asset.OwnerKey]
	switch {
	case c.ByServer && (!former.ByServer || c.Limit < former.Limit):
		say("MaxDeliver of %s is %d now: what has failed as often already stays in the stream and is not delivered again", about, c.Limit)
	case former.Limit > 0 && c.Limit == 0:
		say("MaxDeliver of %s is unlimited now, no longer %d: what fails is delivered again for ever", about, former.Limit)
	}
	if was && !marked {
		say("%s was rewritten without the metadata of the broker: it counts as somebody else's from the next Subscribe on, and no longer follows the code; the limit of deliveries that the broker counts holds", about)
	}
	if c.Config.HeadersOnly && !former.Config.HeadersOnly {
		say("%s delivers headers only now: handlers get empty bodies, and with the ack the message is gone", about)
	}
	if !c.PausedUntil.IsZero() && !c.PausedUntil.Equal(former.PausedUntil) {
		say("%s is paused and delivers nothing until %s", about, pausedUntil(c.PausedUntil))
	}
	return texts
}
