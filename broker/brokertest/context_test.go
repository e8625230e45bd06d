package brokertest_test

import (
	"context"
	"testing"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/broker/brokertest"
)

func TestANilContextIsBackground(t *testing.T) {
	var none context.Context
	e := brokertest.NewEvent("orders.created", nil, brokertest.Context(none))
	if jsbroker.EventContext(e) == nil {
		t.Error("no context")
	}
}
