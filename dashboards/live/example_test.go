package live_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/dashboards/live"
)

// A page observes a broker and is served on an internal port.
func ExampleNew() {
	page := live.New()
	_ = jsbroker.NewBroker(jsbroker.WithHooks(page.Hooks()))
	http.Handle("/debug/jetstream", page)

	w := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/jetstream", nil))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	// Output: 200 text/html; charset=utf-8
}

// With ?format=json the page is data for scripts.
func ExamplePage() {
	page := live.New()
	w := httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?format=json", nil))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	// Output: 200 application/json; charset=utf-8
}
