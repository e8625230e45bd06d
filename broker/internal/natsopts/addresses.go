// Package natsopts makes the options of a client of nats.go: from what the user has typed
// and set, with a guard around the user's code.
package natsopts

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
)

// ServerURLs normalises addresses: go-micro passes what users type, bare host:port most
// of the time, and comma lists from the environment.
//
// A special character that is not percent-encoded cuts a password or token in two, and a
// part of it looks like a host. So an error names the position of an address and not its
// text, and what may be such a part is refused rather than looked up.
func ServerURLs(addrs []string, secure bool) ([]string, error) {
	var urls []string
	credentials := map[string]bool{} // of the addresses so far
	for a := range strings.SplitSeq(strings.Join(addrs, ","), ",") {
		a = strings.TrimSpace(a)
		if a == "" {
			continue
		}
		scheme, rest, explicit := strings.Cut(a, "://")
		if !explicit {
			scheme, rest = bareScheme(secure), a
		}
		userinfo, wrong := checkAddress(scheme, rest, secure)
		if wrong == "" && userinfo != "" && !explicit && len(urls) > 0 && !credentials[userinfo] {
			wrong = "it has credentials and no scheme, and may be the rest of a password or token with a comma: put a scheme before it, such as nats://, or " + percentEncode
		}
		if wrong != "" {
			return nil, fmt.Errorf("%w: address %d of broker.Addrs: %s", fault.ErrInvalidConfig, len(urls)+1, wrong)
		}
		credentials[userinfo] = true
		urls = append(urls, scheme+"://"+rest)
	}
	if len(urls) == 0 {
		urls = []string{nats.DefaultURL}
	}
	return urls, nil
}

// bareScheme is the scheme of an address that has none.
func bareScheme(secure bool) string {
	if secure {
		return "tls"
	}
	return "nats"
}

const percentEncode = "percent-encode the special characters in user, password and token (, is %2C, / is %2F, # is %23, ? is %3F, @ is %40)"

// checkAddress returns the credentials in an address, and what is wrong with it, if
// anything is. That text has nothing of the address in it.
func checkAddress(scheme, rest string, secure bool) (userinfo, wrong string) {
	switch {
	case scheme != "nats" && scheme != "tls" && scheme != "ws" && scheme != "wss":
		return "", "the scheme must be nats, tls, ws or wss"
	case secure && scheme == "ws":
		return "", "broker.Secure with the plain-text scheme ws: use wss"
	}
	authority, after := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, after = rest[:i], rest[i:]
	}
	if strings.Contains(after, "@") {
		return "", "there is a /, ? or # before an @: " + percentEncode
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		userinfo = authority[:i]
	}
	if _, err := url.Parse(scheme + "://" + rest); err != nil { // its text would show the password
		return "", "it is not a URL: " + percentEncode
	}
	return userinfo, ""
}
