package wire

import (
	"strconv"
	"strings"
)

// The two kinds of permission violations: what the server's text has before the
// subject.
const (
	PublishViolation      = "Publish to "
	SubscriptionViolation = "Subscription to "
)

// RefusedSubject returns the subject of a permission violation. It is not ok for a
// violation of another kind. The server quotes the subject as Go source does.
func RefusedSubject(violation error, kind string) (subject string, ok bool) {
	_, after, _ := strings.Cut(violation.Error(), kind)
	quoted, err := strconv.QuotedPrefix(after)
	if err != nil {
		return "", false
	}
	subject, err = strconv.Unquote(quoted)
	return subject, err == nil
}
