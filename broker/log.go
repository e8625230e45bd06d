package broker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"go-micro.dev/v5/logger"

	"go-micro-jetstream/broker/internal/logging"
)

// newLog returns a logger that writes to go-micro's. Attributes become fields.
func newLog(to logger.Logger) *slog.Logger {
	return slog.New(&logHandler{to: to, lost: new(logging.Limiter)})
}

// logHandler is a [slog.Handler] on go-micro's logger. It writes text that
// begins with "jetstream: ", and knows no groups.
type logHandler struct {
	to    logger.Logger
	attrs []slog.Attr
	lost  *logging.Limiter // of what is said about panics of the logger
}

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

// write calls the user's logger. Many lines are written on goroutines that nobody guards,
// such as those of the client, so a panic of the logger would end the process. The line
// goes to the standard error instead, at most once a second.
func (h *logHandler) write(fields map[string]any, level logger.Level, line string) {
	defer func() {
		if p := recover(); p != nil {
			if more, ok := h.lost.Allow("panic"); ok {
				fmt.Fprintf(os.Stderr, "jetstream: the logger panicked: %v; its line was: %s%s\n", p, line, more)
			}
		}
	}()
	h.to.Fields(fields).Log(level, line)
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
	return &logHandler{to: h.to, attrs: append(slices.Clip(h.attrs), attrs...), lost: h.lost}
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
