package broker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"go-micro.dev/v5/logger"
)

// newLog returns a logger that writes to go-micro's. Attributes become fields.
func newLog(to logger.Logger) *slog.Logger { return slog.New(&logHandler{to: to}) }

// logHandler is a [slog.Handler] on go-micro's logger. It writes text that
// begins with "jetstream: ", and knows no groups.
type logHandler struct {
	to    logger.Logger
	attrs []slog.Attr
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
	h.to.Fields(fields).Log(microLevel(r.Level), bounded("jetstream: "+r.Message, maxLine))
	return nil
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
	return &logHandler{to: h.to, attrs: append(slices.Clip(h.attrs), attrs...)}
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
