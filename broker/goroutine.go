package broker

import (
	"bytes"
	"runtime"
	"strconv"
)

// goroutineID returns the number of the calling goroutine, 0 if it cannot be
// told. Go hides it on purpose; it is read off a stack trace, as net/http2 does
// for its assertions, for one question that has no other answer: does a handler
// call Disconnect, which would wait for that very handler? It is asked once per
// worker and per such call, never per message.
func goroutineID() uint64 {
	var buf [64]byte
	b := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	if i := bytes.IndexByte(b, ' '); i > 0 {
		if id, err := strconv.ParseUint(string(b[:i]), 10, 64); err == nil {
			return id
		}
	}
	return 0
}
