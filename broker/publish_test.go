package broker_test

import (
	"testing"
)

func TestPublishedMessagesArriveInOrder(t *testing.T) {
	b := newBroker(t, startServer(t))
	h, got := collector()
	for _, body := range []string{"1", "2", "3"} {
		publish(t, b, "orders.created", body)
	}
	subscribe(t, b, "orders.created", h)
	for _, want := range []string{"1", "2", "3"} {
		if body := receive(t, got); body != want {
			t.Fatalf("got %q, want %q", body, want)
		}
	}
}
