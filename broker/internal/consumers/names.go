package consumers

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/nats-io/nuid"

	"go-micro-jetstream/broker/internal/wire"
)

// durableName names a queue's second and later consumers on one stream. The
// first topic that was subscribed has the queue's own name. The hash keeps two
// topics apart that read the same. Replicas of all versions must agree on these
// names, so the rule must never change.
func durableName(queue, topic string) string {
	sum := sha256.Sum256([]byte(queue + "\x00" + topic))
	suffix := "-" + hex.EncodeToString(sum[:4])
	readable := queue + "-" + readableName(topic)
	if room := wire.MaxName - len(suffix); len(readable) > room {
		readable = strings.ToValidUTF8(readable[:room], "")
	}
	return readable + suffix
}

// durableNames returns the names that a queue's consumer of the topic may have.
func durableNames(queue, topic string) [2]string {
	return [2]string{queue, durableName(queue, topic)}
}

// ephemeralName returns a new name for the consumer of a subscriber without a
// queue.
func ephemeralName(topic string) string {
	const prefix = "queueless-"
	if name := prefix + readableName(topic) + "-" + nuid.Next(); len(name) <= wire.MaxName {
		return name
	}
	return prefix + nuid.Next()
}

// readableName turns a topic into something that may be part of a consumer's
// name. It serves human readers only, as several topics may read the same.
func readableName(topic string) string {
	return strings.NewReplacer(".", "_", "*", "any", ">", "all", "/", "_", `\`, "_").Replace(topic)
}
