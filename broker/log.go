package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go-micro.dev/v5/logger"

	"go-micro-jetstream/broker/internal/goroutine"
	"go-micro-jetstream/broker/internal/logging"
)

// newLog returns a logger that writes to go-micro's. Attributes become fields.
func newLog(to logger.Logger) *slog.Logger {
	return slog.New(&logHandler{to: to, calls: new(loggerCalls)})
}

// logHandler is a [slog.Handler] on go-micro's logger. It writes text that
// begins with "jetstream: ", and knows no groups.
type logHandler struct {
	to    logger.Logger
	attrs []slog.Attr
	calls *loggerCalls
}

// loggerCalls is what is known of calls of the user's logger. It is safe for concurrent
// use.
type loggerCalls struct {
	hanging atomic.Int64    // calls that have not returned in time, and not since
	lost    logging.Limiter // of what is said about lines that the logger does not write
}

// loggerTimeout is how long a line waits for the logger.
const loggerTimeout = time.Second

var _ slog.Handler = (*logHandler)(nil)

// Enabled leaves the choice to go-micro's logger.
func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle writes a line.
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	fields := make(map[string]any, len(h.attrs)+r.NumAttrs())
	add := func(a slog.Attr) bool {
		v := a.Value.Resolve().Any()
		if s, ok := v.(string); ok {
			v = bounded(s, maxField)
		}
		fields[a.Key] = v
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.write(fields, microLevel(r.Level), bounded("jetstream: "+r.Message, maxLine))
	return nil
}

// write calls the user's logger, on a goroutine of its own. Many lines are written on
// goroutines that nobody guards, such as those of the client: a logger that panics would
// end the process, and one that hangs would hold up what the line is about. While it
// hangs it is not called again. A line that it does not write goes to the standard
// error, at most once a second.
func (h *logHandler) write(fields map[string]any, level logger.Level, line string) {
	fault := goroutine.ErrHangs
	if h.calls.hanging.Load() <= 0 {
		_, _, fault = goroutine.Call(loggerTimeout, func() (struct{}, error) {
			h.to.Fields(fields).Log(level, line)
			return struct{}{}, nil
		}, func(struct{}) { h.calls.hanging.Add(-1) })
		if errors.Is(fault, goroutine.ErrHangs) {
			h.calls.hanging.Add(1)
		}
	}
	if fault == nil {
		return
	}
	if more, ok := h.calls.lost.Allow("lost"); ok {
		fmt.Fprintf(os.Stderr, "jetstream: the logger %v; its line was: %s%s\n", fault, line, more)
	}
}

const (
	// maxField bounds a field of a line, in bytes: topics, queues and names are short,
	// but whoever publishes chooses what subjects and headers contain.
	maxField = 1024
	// maxLine bounds the text of a line, in bytes. A panic has a stack in it.
	maxLine = 32 << 10
)

// bounded cuts a text that is too long, and says how long it was.
func bounded(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + fmt.Sprintf("... (%d bytes)", len(s))
}

// WithAttrs returns a handler that adds these to each line.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{to: h.to, attrs: append(slices.Clip(h.attrs), attrs...), calls: h.calls}
}

// WithGroup returns the handler itself: go-micro's fields are flat.
func (h *logHandler) WithGroup(string) slog.Handler { return h }

func microLevel(l slog.Level) logger.Level {
	switch {
	case l >= slog.LevelError:
		return logger.ErrorLevel
	case l >= slog.LevelWarn:
		return logger.WarnLevel
	case l >= slog.LevelInfo:
		return logger.InfoLevel
	}
	return logger.DebugLevel
}
