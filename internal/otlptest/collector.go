// Package otlptest is the other end of an OTLP exporter, for tests: a collector over HTTP
// that keeps what it gets.
package otlptest

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
)

// Collector keeps the requests of an exporter. M is their type, such as
// *collector.ExportTraceServiceRequest of go.opentelemetry.io/proto/otlp. The zero value
// is ready for [httptest.NewServer]. It is safe for concurrent use.
type Collector[M proto.Message] struct {
	Path string // of the requests; empty: any

	mu       sync.Mutex
	requests []M
	errs     []error
}

// ServeHTTP is [http.Handler].
func (c *Collector[M]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m, err := c.read(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.errs = append(c.errs, err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.requests = append(c.requests, m)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *Collector[M]) read(r *http.Request) (m M, err error) {
	if c.Path != "" && r.URL.Path != c.Path {
		return m, fmt.Errorf("request for %s, want %s", r.URL.Path, c.Path)
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return m, err
		}
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return m, err
	}
	m = m.ProtoReflect().Type().New().Interface().(M)
	return m, proto.Unmarshal(data, m)
}

// Requests returns what has come so far, and what could not be read.
func (c *Collector[M]) Requests() ([]M, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests), errors.Join(c.errs...)
}
