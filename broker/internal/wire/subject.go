// Package wire knows what travels between the broker and the server: subjects,
// headers, acknowledgements, answers to publishes, and status messages.
package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"go-micro-jetstream/broker/internal/fault"
)

// MaxName is the longest name of a stream or consumer, in bytes (JSMaxNameLen in
// nats-server's server/jetstream_api.go). Topics keep to it too: their first token
// becomes a stream name, and NATS advises against longer subjects.
const MaxName = 255

// CheckPublishTopic reports why a message cannot be published to the topic. The
// error wraps [fault.ErrInvalidTopic].
func CheckPublishTopic(topic string) error {
	return checkTopic(topic, false)
}

// CheckSubscribeTopic reports why a topic cannot be subscribed to. The error
// wraps [fault.ErrInvalidTopic]. Wildcards are allowed except as the first token,
// because that token names the stream.
func CheckSubscribeTopic(topic string) error {
	return checkTopic(topic, true)
}

func checkTopic(topic string, wildcards bool) error {
	if why := faultOfTopic(topic, wildcards); why != "" {
		return fmt.Errorf("%w %q: %s", fault.ErrInvalidTopic, Shorten(topic), why)
	}
	return nil
}

// faultOfTopic returns what is wrong with a topic, or "".
func faultOfTopic(topic string, wildcards bool) string {
	switch {
	case topic == "":
		return "it is empty"
	case len(topic) > MaxName:
		return fmt.Sprintf("it has %d bytes, at most %d are allowed", len(topic), MaxName)
	case !utf8.ValidString(topic):
		return "it is not valid UTF-8"
	case topic[0] == '$', topic == "_INBOX", strings.HasPrefix(topic, "_INBOX."):
		return "names beginning with $ or _INBOX belong to NATS itself"
	}
	if first := FirstToken(topic); first == laterToken || first == dueToken {
		return "names beginning with _later or _due belong to messages that are delivered later"
	}
	for rest, first, more := topic, true, true; more; first = false {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		if why := faultOfToken(token, wildcards, first, !more); why != "" {
			return why
		}
	}
	return ""
}

// faultOfToken returns what is wrong with a token of a topic, or "".
func faultOfToken(token string, wildcards, first, last bool) string {
	for _, r := range token {
		if r <= ' ' || r >= 0x7f && (unicode.IsSpace(r) || unicode.IsControl(r)) {
			return "it contains white space or a control character: use dots between tokens, and letters, digits, - and _ within them"
		}
	}
	switch {
	case token == "":
		return "it has an empty token: no dot may lead, trail or follow another"
	case !strings.ContainsAny(token, "*>"):
	case len(token) > 1:
		return "a wildcard must be a token of its own"
	case !wildcards:
		return "wildcards work in Subscribe only"
	case first:
		return "the first token names the stream and cannot be a wildcard"
	case token == ">" && !last:
		return "> must be the last token"
	}
	return ""
}

// CheckQueue reports why a queue cannot name a durable consumer. The error wraps
// [fault.ErrInvalidQueue].
func CheckQueue(queue string) error {
	if err := CheckName(queue); err != nil {
		return fmt.Errorf("%w %q: %w; use letters, digits, - and _", fault.ErrInvalidQueue, Shorten(queue), err)
	}
	return nil
}

// CheckName reports why a stream or consumer cannot have the name. It applies the
// server's rule (isValidAssetName in nats-server's server/jetstream_api.go, and
// [MaxName]) and also refuses what no tool can type.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), MaxName)
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

// CheckDomain reports why JetStream cannot have the domain.
func CheckDomain(name string) error {
	if name == "" {
		return fmt.Errorf("the domain is empty: leave the option out for the server's own JetStream")
	}
	if err := CheckName(name); err != nil {
		return fmt.Errorf("domain %q: %w: a domain is one token, as in the jetstream block of the server's configuration; a prefix such as $JS.hub.API belongs into WithAPIPrefix", Shorten(name), err)
	}
	return nil
}

// CheckAPIPrefix reports why the subjects of JetStream's API cannot have the prefix.
func CheckAPIPrefix(prefix string) error {
	if prefix == "" {
		return fmt.Errorf("the prefix is empty: leave the option out for the server's own JetStream")
	}
	if len(prefix) > MaxName || !utf8.ValidString(prefix) {
		return fmt.Errorf("prefix %q: it has more than %d bytes, or is not valid UTF-8", Shorten(prefix), MaxName)
	}
	for token := range strings.SplitSeq(prefix, ".") {
		if why := faultOfToken(token, false, false, false); why != "" {
			if strings.ContainsAny(token, "*>") {
				why = "it has a wildcard"
			}
			return fmt.Errorf("prefix %q: %s: want what stands before .STREAM.INFO in the subjects of the API, such as $JS.hub.API", Shorten(prefix), why)
		}
	}
	return nil
}

// FirstToken returns the topic up to its first dot.
func FirstToken(topic string) string {
	token, _, _ := strings.Cut(topic, ".")
	return token
}

// Covers reports whether pattern matches every subject that topic can stand for.
// Both may contain wildcards. It does not allocate, as every publish asks it.
func Covers(pattern, topic string) bool {
	if pattern == topic { // the common case
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

// CoversAny reports whether one of the patterns covers the topic; see [Covers].
func CoversAny(patterns []string, topic string) bool {
	for _, p := range patterns {
		if Covers(p, topic) {
			return true
		}
	}
	return false
}

// Overlaps reports whether there is a subject that matches both patterns.
func Overlaps(a, b string) bool {
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

// Shorten cuts a name to 80 bytes, so that hostile names do not flood logs and
// errors.
func Shorten(s string) string {
	return cut(s, 80)
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}
