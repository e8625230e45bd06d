package wire

import "strings"

// Redacted joins server URLs for logs and errors, without credentials.
func Redacted(urls []string) string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = WithoutCredentials(u)
	}
	return strings.Join(out, ", ")
}

// WithoutCredentials removes user, password and token from a server's address. It
// does not parse the address: credentials must not leak from a malformed one.
func WithoutCredentials(addr string) string {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, rest = "", addr
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	if scheme == "" {
		return rest
	}
	return scheme + "://" + rest
}
