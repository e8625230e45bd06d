package wire

import "github.com/nats-io/nats.go"

const (
	// markerHeader says in a delete marker why the last message of the subject has
	// gone (ADR-43).
	markerHeader = "Nats-Marker-Reason"
	// bodySizeHeader has the size of a body that a consumer with HeadersOnly leaves
	// out.
	bodySizeHeader = "Nats-Msg-Size"
)

// IsDeleteMarker reports whether a message is a delete marker: a stream with
// SubjectDeleteMarkerTTL stores it in place of the last message of a subject that
// has expired. It has no body. A message with a body is somebody's, whatever its
// headers say.
func IsDeleteMarker(m *nats.Msg) bool {
	if len(m.Data) > 0 || len(m.Header) == 0 || m.Header.Get(markerHeader) == "" {
		return false
	}
	size := m.Header.Get(bodySizeHeader)
	return size == "" || size == "0"
}
