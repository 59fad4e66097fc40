document.getElementById("app").textContent = "The page is not built.";
