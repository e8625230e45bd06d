// Package goroutine runs tasks in order, counts work under way, and tells
// goroutines apart.
package goroutine

import (
	"bytes"
	"runtime"
	"strconv"
)

// ID returns the number of the calling goroutine, or 0 if it cannot be found.
//
// Go hides the number on purpose. It is read from a stack trace, as net/http2
// does for its assertions. It answers one question that has no other answer:
// does a handler or a hook call something that would wait for that very handler
// or hook? Do not ask once per message: a stack trace is slow.
func ID() uint64 {
	var buf [64]byte
	b := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	if i := bytes.IndexByte(b, ' '); i > 0 {
		if id, err := strconv.ParseUint(string(b[:i]), 10, 64); err == nil {
			return id
		}
	}
	return 0
}
