package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNameLength is the server's limit for stream and consumer names
// (JSMaxNameLen). Topics keep to it too: their first token becomes a stream
// name, and NATS advises against subjects longer than that.
const maxNameLength = 255

// checkPublishTopic reports why a message cannot be published to the topic.
func checkPublishTopic(topic string) error {
	return checkTopic(topic, false)
}

// checkSubscribeTopic reports why a topic cannot be subscribed to. Wildcards
// are fine, except as the first token: that token names the stream.
func checkSubscribeTopic(topic string) error {
	return checkTopic(topic, true)
}

func checkTopic(topic string, wildcards bool) error {
	invalid := func(why string) error {
		return fmt.Errorf("%w %q: %s", ErrInvalidTopic, shorten(topic), why)
	}
	switch {
	case topic == "":
		return invalid("it is empty")
	case len(topic) > maxNameLength:
		return invalid(fmt.Sprintf("it has %d bytes, at most %d are allowed", len(topic), maxNameLength))
	case !utf8.ValidString(topic):
		return invalid("it is not valid UTF-8")
	case topic[0] == '$', topic == "_INBOX", strings.HasPrefix(topic, "_INBOX."):
		return invalid("names beginning with $ or _INBOX belong to NATS itself")
	}
	tokenStart := 0
	const blank = "it contains white space or a control character"
	for i := 0; i <= len(topic); i++ {
		if i < len(topic) && topic[i] != '.' {
			c := topic[i]
			if c <= ' ' || c == 0x7f {
				return invalid(blank)
			}
			if c >= utf8.RuneSelf && utf8.RuneStart(c) {
				if r, _ := utf8.DecodeRuneInString(topic[i:]); unicode.IsSpace(r) || unicode.IsControl(r) {
					return invalid(blank)
				}
			}
			continue
		}
		token := topic[tokenStart:i]
		switch {
		case token == "":
			return invalid("it has an empty token: no dot may lead, trail or follow another")
		case !strings.ContainsAny(token, "*>"):
		case len(token) > 1:
			return invalid("a wildcard must be a token of its own")
		case !wildcards:
			return invalid("wildcards work in Subscribe only")
		case tokenStart == 0:
			return invalid("the first token names the stream and cannot be a wildcard")
		case token == ">" && i < len(topic):
			return invalid("> must be the last token")
		}
		tokenStart = i + 1
	}
	return nil
}

// checkQueue reports why a queue cannot name a durable consumer.
func checkQueue(queue string) error {
	if err := checkAssetName(queue); err != nil {
		return fmt.Errorf("%w %q: %w; use letters, digits, - and _", ErrInvalidQueue, shorten(queue), err)
	}
	return nil
}

// checkAssetName applies the server's rule for names of streams and consumers
// (isValidAssetName and JSMaxNameLen), and forbids what no tool can type.
func checkAssetName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case len(name) > maxNameLength:
		return fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), maxNameLength)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name is not valid UTF-8")
	}
	for _, r := range name {
		if strings.ContainsRune(`.*>\/`, r) || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return fmt.Errorf("the name contains %q", r)
		}
	}
	return nil
}

// firstToken returns the topic up to its first dot.
func firstToken(topic string) string {
	token, _, _ := strings.Cut(topic, ".")
	return token
}

// defaultStreamName is the rule of [WithStreamName]'s default: the first token,
// upper-cased, - to _.
func defaultStreamName(topic string) string {
	return strings.ReplaceAll(strings.ToUpper(firstToken(topic)), "-", "_")
}

// durableName is the name of a queue's second and later consumers on one
// stream. The queue's own name goes to the topic that was subscribed first; the
// hash keeps two topics apart whose readable forms are the same.
func durableName(queue, topic string) string {
	sum := sha256.Sum256([]byte(queue + "\x00" + topic))
	suffix := "-" + hex.EncodeToString(sum[:4])
	readable := queue + "-" + readableName(topic)
	if room := maxNameLength - len(suffix); len(readable) > room {
		readable = strings.ToValidUTF8(readable[:room], "")
	}
	return readable + suffix
}

// readableName makes a topic fit for a consumer name, for a human reader only.
func readableName(topic string) string {
	return strings.NewReplacer(".", "_", "*", "any", ">", "all", "/", "_", `\`, "_").Replace(topic)
}

// covers reports whether every subject that topic can stand for also matches
// pattern. Both may contain wildcards. It does not allocate: Publish asks it
// for every message.
func covers(pattern, topic string) bool {
	if pattern == topic { // most are the same
		return true
	}
	for {
		p, pRest, pMore := strings.Cut(pattern, ".")
		t, tRest, tMore := strings.Cut(topic, ".")
		switch {
		case p == ">":
			return true
		case t == ">":
			return false
		case p != t && (p != "*" || t == ""):
			return false
		case !pMore || !tMore:
			return pMore == tMore
		}
		pattern, topic = pRest, tRest
	}
}

// overlaps reports whether some subject matches both patterns.
func overlaps(a, b string) bool {
	for {
		at, aRest, aMore := strings.Cut(a, ".")
		bt, bRest, bMore := strings.Cut(b, ".")
		switch {
		case at == ">" || bt == ">":
			return true
		case at != bt && at != "*" && bt != "*":
			return false
		case !aMore || !bMore:
			return aMore == bMore
		}
		a, b = aRest, bRest
	}
}

// coversAny reports whether one of the patterns covers the topic.
func coversAny(patterns []string, topic string) bool {
	for _, p := range patterns {
		if covers(p, topic) {
			return true
		}
	}
	return false
}

// shorten keeps hostile names from flooding logs and errors.
func shorten(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}
