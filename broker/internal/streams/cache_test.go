package streams

import (
	"testing"

	"go-micro-jetstream/broker/internal/asset"
)

func TestCacheFindsAndForgets(t *testing.T) {
	t.Parallel()
	var sc cache
	if sc.find("orders") != nil || sc.lost([]string{">"}) != nil {
		t.Error("an empty cache knows something")
	}
	orders := &asset.Stream{Name: "ORDERS", Subjects: []string{"orders", "orders.>"}, Ours: true}
	paid := &asset.Stream{Name: "PAID", Subjects: []string{"*.paid"}}
	sc.add(orders)
	sc.add(paid)
	for topic, want := range map[string]*asset.Stream{"orders": orders, "orders.a.b": orders, "users.paid": paid, "users": nil} {
		if got := sc.find(topic); got != want {
			t.Errorf("%s: %v", topic, got)
		}
	}
	again := &asset.Stream{Name: "ORDERS", Subjects: []string{"orders.>"}, Ours: true}
	sc.add(again)
	if sc.find("orders") != nil || sc.find("orders.a") != again {
		t.Error("a stream of the same name is not replaced")
	}
	sc.remove(again)
	sc.remove(paid)
	if sc.find("orders.a") != nil || sc.find("users.paid") != nil {
		t.Error("what was removed is found")
	}
	if lost := sc.lost([]string{"orders.paid"}); len(lost) != 1 || lost[0] != paid {
		t.Errorf("lost %v, want the one of others", lost)
	}
	if lost := sc.lost([]string{"orders.a"}); len(lost) != 0 {
		t.Errorf("lost %v, which does not overlap", lost)
	}
	sc.add(paid)
	if lost := sc.lost([]string{">"}); len(lost) != 0 {
		t.Errorf("%v is lost and found", lost)
	}
}

func TestFindingDoesNotAllocate(t *testing.T) {
	var sc cache
	sc.add(&asset.Stream{Name: "ORDERS", Subjects: []string{"users.>", "orders.*.paid", "orders", "orders.>"}})
	if n := testing.AllocsPerRun(100, func() {
		if sc.find("orders.eu.created") == nil {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
