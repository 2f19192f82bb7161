"""The search page and its JSON routes: an application that is handed knowledge bases."""
